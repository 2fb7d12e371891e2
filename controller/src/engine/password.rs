//! Passwords with which users become root. One is asked for once for all hosts that want it, when every host of the run
//! has proved who it is and said whether it wants one, and goes to the hosts that the question names and to no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anemos_proto::Secret;
use tokio::sync::watch;

use crate::config::Become;
use crate::ssh::Passphrases;

/// The passwords of a run.
#[derive(Debug)]
pub struct Passwords {
    asks: Arc<dyn Passphrases>,
    state: watch::Sender<State>,
}

/// Whose password it is: the same for all hosts with this user and this way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whose {
    user: String,
    by: Become,
}

#[derive(Debug, Default)]
struct State {
    /// Hosts that may want a password yet.
    open: BTreeSet<String>,
    /// Hosts that wait for one; `true`: the one before was wrong.
    waiting: BTreeMap<String, (Whose, bool)>,
    /// What came of asking, and for which user's.
    given: BTreeMap<String, (String, Result<Secret, String>)>,
    asking: bool,
}

/// While it lives, the others wait for what this host wants.
#[derive(Debug)]
pub struct Open<'a>(&'a Passwords, &'a str);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| {
            state.open.remove(self.1);
            state.waiting.remove(self.1);
        });
    }
}

/// While it lives, nobody else asks.
struct Asking<'a>(&'a Passwords);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.asking = false);
    }
}

impl Passwords {
    /// For a run in which these hosts may want one.
    pub fn new(asks: &Arc<dyn Passphrases>, hosts: impl IntoIterator<Item = String>) -> Arc<Self> {
        let state = State { open: hosts.into_iter().collect(), ..State::default() };
        Arc::new(Self { asks: Arc::clone(asks), state: watch::channel(state).0 })
    }

    /// Says for as long as it lives that this host may want one.
    pub fn open<'a>(&'a self, host: &'a str) -> Open<'a> {
        Open(self, host)
    }

    /// The one that was given for this user on this host.
    pub fn given(&self, host: &str, user: &str) -> Option<Secret> {
        let state = self.state.borrow();
        let (whose, answer) = state.given.get(host)?;
        answer.clone().ok().filter(|_| whose == user)
    }

    /// Asks for the one of `user` on this host, together with all others that want the same. `wrong`: the one that
    /// was given is. An error says why there is none.
    pub async fn get(&self, host: &str, user: &str, by: Become, wrong: bool) -> Result<Secret, String> {
        if !self.asks.possible() {
            let whose = if by == Become::Su { "root's password" } else { "a password" };
            return Err(format!("{by} wants {whose}, and there is no terminal to ask for it on"));
        }
        let mut changes = self.state.subscribe();
        self.state.send_modify(|state| {
            state.open.remove(host);
            state.given.remove(host);
            state.waiting.insert(host.to_owned(), (Whose { user: user.to_owned(), by }, wrong));
        });
        loop {
            if let Some((_, answer)) = self.state.borrow().given.get(host) {
                return answer.clone();
            }
            match self.turn(host) {
                Some((asking, question, hosts)) => {
                    let answer = self.asks.ask(question).await;
                    self.state.send_modify(|state| state.answered(&hosts, &answer));
                    drop(asking);
                }
                // There is a sender: this one.
                None => _ = changes.changed().await,
            }
        }
    }

    /// Whether this host is the one that asks now: the question, and the hosts that it names.
    fn turn(&self, host: &str) -> Option<(Asking<'_>, String, Vec<String>)> {
        let mut turn = None;
        self.state.send_if_modified(|state| {
            if !state.asking && state.open.is_empty() {
                turn = state.question(host);
                state.asking = turn.is_some();
            }
            // Nobody has to look again because of this.
            false
        });
        turn.map(|(question, hosts)| (Asking(self), question, hosts))
    }
}

impl State {
    /// The question for what `host` waits for, and the hosts that wait for the same.
    fn question(&self, host: &str) -> Option<(String, Vec<String>)> {
        let (Whose { user, by }, _) = self.waiting.get(host)?;
        let alike = self.waiting.iter().filter(|(_, (other, _))| (&other.user, other.by) == (user, *by));
        let wrong: Vec<&str> = alike.clone().filter(|(_, (_, wrong))| *wrong).map(|(host, _)| host.as_str()).collect();
        let hosts: Vec<String> = alike.map(|(host, _)| host.clone()).collect();
        let again = if wrong.is_empty() { String::new() } else { format!("That was not it on {}. ", wrong.join(", ")) };
        let whose = if *by == Become::Su { format!("root, for {user}") } else { user.clone() };
        Some((format!("{again}Password of {whose} to become root by {by} on {}: ", hosts.join(", ")), hosts))
    }

    fn answered(&mut self, hosts: &[String], answer: &Result<Secret, String>) {
        for host in hosts {
            // One that has gone meanwhile gets none.
            if let Some((Whose { user, .. }, _)) = self.waiting.remove(host) {
                self.given.insert(host.clone(), (user, answer.clone()));
                self.open.insert(host.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Types these, the last first, and remembers the questions.
    #[derive(Debug, Default)]
    struct Person {
        types: Mutex<Vec<&'static str>>,
        heard: Mutex<Vec<String>>,
        away: bool,
    }

    impl Passphrases for Person {
        fn possible(&self) -> bool {
            !self.away
        }

        fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>> {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(prompt);
            let typed = self.types.lock().unwrap_or_else(PoisonError::into_inner).pop();
            Box::pin(async move { typed.map(|line| Secret::new(line.into())).ok_or_else(|| "nobody types".into()) })
        }
    }

    fn of(person: &Arc<Person>, hosts: &[&str]) -> Arc<Passwords> {
        let asks: Arc<dyn Passphrases> = Arc::clone(person) as _;
        Passwords::new(&asks, hosts.iter().map(|&host| host.to_owned()))
    }

    fn heard(person: &Person) -> Vec<String> {
        std::mem::take(&mut *person.heard.lock().unwrap())
    }

    #[tokio::test]
    async fn one_question_for_those_that_want_it() {
        let person = Arc::new(Person { types: Mutex::new(vec!["roots", "mine"]), ..Person::default() });
        let passwords = of(&person, &["a", "b", "c", "d"]);
        let free = passwords.open("d");
        let all = async {
            tokio::join!(
                passwords.get("b", "admin", Become::Sudo, false),
                passwords.get("a", "admin", Become::Sudo, false)
            )
        };
        let mut all = std::pin::pin!(all);
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut all).await;
        assert!(early.is_err() && heard(&person).is_empty(), "c and d have not said whether they want one");
        drop(free);
        drop(passwords.open("c"));
        let (b, a) = all.await;
        assert_eq!((a.unwrap().expose(), b.unwrap().expose()), (&b"mine"[..], &b"mine"[..]));
        assert_eq!(heard(&person), ["Password of admin to become root by sudo on a, b: "]);
        assert_eq!(passwords.given("a", "admin").unwrap().expose(), b"mine");
        assert_eq!((passwords.given("a", "root"), passwords.given("c", "admin")), (None, None));
        // What is right for one may be wrong for another, and whoever is right or gone is not waited for.
        drop((passwords.open("a"), passwords.open("b")));
        let c = passwords.get("c", "admin", Become::Su, false).await;
        assert_eq!(c.unwrap().expose(), b"roots");
        assert_eq!(heard(&person), ["Password of root, for admin to become root by su on c: "]);
    }

    #[tokio::test]
    async fn again_where_it_was_wrong() {
        let person = Arc::new(Person { types: Mutex::new(vec!["second", "first"]), ..Person::default() });
        let passwords = of(&person, &["a", "b"]);
        let (a, b) = tokio::join!(
            passwords.get("a", "admin", Become::Sudo, false),
            passwords.get("b", "admin", Become::Sudo, false)
        );
        a.unwrap();
        b.unwrap();
        let right = passwords.open("b");
        let again = passwords.get("a", "admin", Become::Sudo, true);
        let mut again = std::pin::pin!(again);
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut again).await;
        assert!(early.is_err(), "whether it is right for b is not known");
        drop(right);
        assert_eq!(again.await.unwrap().expose(), b"second");
        let questions = heard(&person);
        assert!(
            questions[1].starts_with("That was not it on a. ") && questions[1].ends_with(" on a: "),
            "{questions:?}"
        );
        assert_eq!(passwords.given("b", "admin").unwrap().expose(), b"first");
    }

    #[tokio::test]
    async fn whoever_stops_asking_leaves_it_to_the_next() {
        let person = Arc::new(Person { types: Mutex::new(vec!["typed"]), ..Person::default() });
        let passwords = of(&person, &["a"]);
        drop(passwords.turn("a"));
        assert!(!passwords.state.borrow().asking);
        assert_eq!(passwords.get("a", "admin", Become::Sudo, false).await.unwrap().expose(), b"typed");
        let none = of(&Arc::new(Person { away: true, ..Person::default() }), &["a"]);
        let why = none.get("a", "admin", Become::Su, false).await.unwrap_err();
        assert_eq!(why, "su wants root's password, and there is no terminal to ask for it on");
    }
}
