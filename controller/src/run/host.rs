//! One host of a run that is followed: from its first task to the last, with the wishes that come meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as signal};

use super::find::{not_in_ram, read};
use super::member::{Again, Member, Task};
use super::plea::{Answer, Plea};
use crate::engine::{Asked, Asker, End, Reporter};
use crate::report::{Ending, Update, Wished};

/// Whoever made a wish is answered by then, though the host may not have been reached.
const ANSWER: Duration = Duration::from_secs(4);

/// How many hosts of a run something is being done about.
#[derive(Debug, Clone)]
pub(super) struct Busy(signal::Sender<usize>);

impl Busy {
    pub(super) fn new(hosts: usize) -> Self {
        Self(signal::channel(hosts).0)
    }

    fn add(&self, hosts: isize) {
        self.0.send_modify(|busy| *busy = busy.saturating_add_signed(hosts));
    }

    /// Nothing is being done about one of them, or will be.
    pub(super) fn done(&self) {
        self.add(-1);
    }

    /// Ends when nothing is being done about any.
    async fn none(&self) {
        // There is a sender: this one.
        let _ = self.0.subscribe().wait_for(|busy| *busy == 0).await;
    }
}

/// Does the task, and hands on the wishes that come meanwhile. A host that is held stays at hand for as long as another
/// host of the run is being followed, or, in the run of a daemon, for as long as the daemon: a wish takes it up again.
pub(super) async fn attend(
    member: &Member,
    task: Task,
    pleas: mpsc::UnboundedReceiver<Plea>,
    busy: Busy,
) -> Result<Option<End>, String> {
    attend_from(member, (Some(task), Ok(None)), pleas, busy).await
}

/// The same from a task, or from the end of one.
pub(super) async fn attend_from(
    member: &Member,
    (mut task, mut end): (Option<Task>, Result<Option<End>, String>),
    mut pleas: mpsc::UnboundedReceiver<Plea>,
    busy: Busy,
) -> Result<Option<End>, String> {
    let mut stop = member.stop.clone();
    loop {
        let stays = member.daemon && matches!(&end, Ok(Some(End::Over(end))) if end.outcome == Ending::Held);
        if let Some(Task { reporter, wishes, work }) = &mut task {
            tokio::select! {
                biased;
                Some(plea) = pleas.recv() => hand(plea, reporter, wishes, member.name()),
                ended = work => {
                    end = ended;
                    task = None;
                    busy.add(-1);
                }
            }
        } else {
            tokio::select! {
                biased;
                () = busy.none(), if !stays => return end,
                _ = stop.wait_for(|stop| stop.asked()), if stays => return end,
                Some(plea) = pleas.recv() => {
                    busy.add(1);
                    match again(member, &end, &plea) {
                        Ok(again) => {
                            let Again { task: new, .. } = again;
                            hand(plea, &new.reporter, &new.wishes, member.name());
                            task = Some(new);
                        }
                        Err(why) => {
                            busy.add(-1);
                            refuse(plea, member.name(), why);
                        }
                    }
                }
            }
        }
    }
}

/// Takes up a host that is over, if that can be done.
fn again(member: &Member, end: &Result<Option<End>, String>, plea: &Plea) -> Result<Again, String> {
    match end {
        Ok(Some(End::Over(_))) => {
            let journal = read(&member.run, member.name()).map_err(|error| error.to_string())?;
            if let Some(why) = not_in_ram(&journal) {
                return Err(why);
            }
            member.take_up(u64::MAX, Some(&plea.id)).map_err(|error| error.to_string())
        }
        Ok(Some(End::Detached) | None) => Err("it is not followed any more".into()),
        Err(why) => Err(why.clone()),
    }
}

/// Writes a wish down, and hands it to the host.
fn hand(plea: Plea, reporter: &Arc<Reporter>, wishes: &mpsc::UnboundedSender<Asked>, host: &str) {
    let Plea { id, author, number, wish, answer: reply } = plea;
    let tell = || reporter.number(Update::Wished(Wished { author, id, what: wish.what() }));
    let number = number.or_else(tell);
    // What is made of it may be lost with this process, and must not be a secret then.
    reporter.sync();
    let (answer, answered) = oneshot::channel();
    if let Err(mpsc::error::SendError(asked)) = wishes.send(Asked { wish, asker: Asker { number, answer } }) {
        asked.asker.answered(reporter, Err("it is not in RAM".into()));
    }
    let host = host.to_owned();
    tokio::spawn(async move {
        let (refused, made) = match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(answer)) => (answer.clone().err(), answer.is_ok()),
            Ok(Err(_)) => (Some("the host is not followed any more".into()), false),
            Err(_) => (None, false),
        };
        // Whoever asked may have gone.
        let _ = reply.send(Answer { host, number, refused, made });
    });
}

fn refuse(plea: Plea, host: &str, why: String) {
    // Whoever asked may have gone.
    let _ = plea.answer.send(Answer { host: host.into(), number: None, refused: Some(why), made: false });
}
