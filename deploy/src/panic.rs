//! Turns a panic of the stage into a failure that the controller can show.

use std::time::Duration;

use anemos_proto::stage::{Failure, StageReply};

use crate::wire::Output;

/// From now on a panic in any thread calls `undo`, is sent to `output`, and ends the process. Without this the
/// controller would go on waiting for the thread that panicked.
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
