//! What has to be typed is asked of whoever is attached.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemos_proto::Secret;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Said, reply};
use crate::ssh::Passphrases;

/// Numbers of questions.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The questions of a conversation that wait for an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Questions(Arc<Mutex<HashMap<u64, oneshot::Sender<Option<Secret>>>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Questions {
    /// Answers one. `false` if it waits for no answer.
    pub(super) fn answer(&self, question: u64, typed: Option<Secret>) -> bool {
        lock(&self.0).remove(&question).is_some_and(|waiting| waiting.send(typed).is_ok())
    }
}

/// Somebody who may be asked.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// Their request that this is about.
    pub re: u64,
    pub replies: mpsc::Sender<String>,
    pub questions: Questions,
}

/// Everybody who may be asked; whoever came last is asked first.
#[derive(Debug, Default)]
pub(super) struct Attached(Mutex<Vec<Listener>>);

impl Attached {
    pub(super) fn add(&self, listener: Listener) {
        let mut all = lock(&self.0);
        all.retain(|other| !other.replies.is_closed());
        all.push(listener);
    }

    fn last(&self) -> Option<Listener> {
        lock(&self.0).iter().rev().find(|listener| !listener.replies.is_closed()).cloned()
    }
}

impl Passphrases for Attached {
    fn possible(&self) -> bool {
        self.last().is_some()
    }

    fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>> {
        Box::pin(async move {
            while let Some(Listener { re, replies, questions }) = self.last() {
                let question = NEXT.fetch_add(1, Ordering::Relaxed);
                let (typed, answer) = oneshot::channel();
                lock(&questions.0).insert(question, typed);
                let said = reply(Some(re), &Said::Question { question, prompt: prompt.clone() });
                let asked = async {
                    replies.send(said).await.ok()?;
                    answer.await.ok()
                };
                let typed = tokio::select! {
                    typed = asked => typed,
                    () = replies.closed() => None,
                };
                lock(&questions.0).remove(&question);
                match typed {
                    Some(Some(typed)) => return Ok(typed),
                    Some(None) => return Err("whoever is attached did not answer".into()),
                    // They have left: somebody else may be there.
                    None => {}
                }
            }
            Err("nobody is attached who could type it; `anemos attach` does that".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_there_is_asked() {
        let attached = Arc::new(Attached::default());
        assert!(!attached.possible());
        assert!(attached.ask("a".into()).await.unwrap_err().contains("nobody is attached"));
        let listener = || {
            let (replies, said) = mpsc::channel(4);
            (Listener { re: 7, replies, questions: Questions::default() }, said)
        };
        let ((first, mut heard_first), (second, mut heard_second)) = (listener(), listener());
        attached.add(first.clone());
        attached.add(second);
        let asking = Arc::clone(&attached);
        let asking = tokio::spawn(async move { asking.ask("Passphrase: ".into()).await });
        let number = |said: &str| {
            let said: serde_json::Value = serde_json::from_str(said).unwrap();
            assert!(said["type"] == "question" && said["prompt"] == "Passphrase: " && said["re"] == 7, "{said}");
            said["question"].as_u64().unwrap()
        };
        let asked = number(&heard_second.recv().await.unwrap());
        // Whoever came last leaves without an answer.
        drop(heard_second);
        let again = number(&heard_first.recv().await.unwrap());
        assert!(!first.questions.answer(asked, None) && asked != again);
        assert!(first.questions.answer(again, Some(Secret::new(b"typed".to_vec()))));
        assert_eq!(asking.await.unwrap().unwrap().expose(), b"typed");
        assert!(!first.questions.answer(again, None), "it was answered already");
    }
}
