//! `anemos serve`.

use super::{CommandError, Status, Stopping};
use crate::journal::RunStore;
use crate::{api, serve};

pub(super) async fn serve(stopping: Stopping) -> Result<Status, CommandError> {
    let store = RunStore::open()?;
    let dir = api::default_dir().map_err(CommandError::bad_input)?;
    let mut stop = stopping().map_err(CommandError::internal)?;
    tokio::select! {
        served = serve::serve(store, &dir) => served.map(|()| Status::Done).map_err(CommandError::bad_input),
        // What was begun goes on when it is started again, as it would had it been killed.
        _ = stop.wait_for(|stop| stop.asked()) => Ok(Status::Done),
    }
}
