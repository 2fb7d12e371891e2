//! A defect of the stage's own becomes a failure that the controller can show.

use std::time::Duration;

use anemos_proto::stage::{Failure, StageReply};

use crate::wire::Output;

/// From now on a panic in any thread is undone with `undo`, sent to `output`, and ends the process, since it would
/// otherwise leave the controller waiting.
pub fn report_to(output: Output, undo: impl Fn() + Send + Sync + 'static) {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        previous(info);
        undo();
        let failure = Failure {
            what: "running the stage".into(),
            why: format!("it has a defect: {info}"),
            hint: "please report this".into(),
        };
        output.send(&StageReply::Failed(failure));
        output.flush(Duration::from_secs(2));
        std::process::exit(101);
    }));
}
