//! A run whose controller ended before the boot: is the host as it was?

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::look::look;
use crate::journal::HostEntry;
use crate::report::Ending;
use crate::ssh::{self, Counters, Credentials, HostKey, Policy, Tuning};

/// How long the host may take to be reached and looked at.
const REACH: Duration = Duration::from_secs(60);

/// Looks at the host, which proved to have `host_key` when it was met and had booted as `boot_id`.
pub async fn unbooted(
    entry: &HostEntry,
    host_key: Option<&HostKey>,
    boot_id: Option<&str>,
    user: &Credentials,
    counters: &Arc<Counters>,
) -> (Ending, String) {
    let Some(host_key) = host_key else {
        return (Ending::Untouched, "the controller ended before the host had let it in, so nothing was begun".into());
    };
    let looked = async {
        let deadline = Instant::now() + REACH;
        let policy = Policy::pinned(vec![host_key.clone()]);
        let tuning = Tuning { algorithms: entry.algorithms.clone(), ..Tuning::default() };
        let connected = ssh::connect(&entry.address, &policy, counters, deadline, &tuning).await;
        let session = connected
            .map_err(|e| e.to_string())?
            .authenticate(&entry.user, user, deadline)
            .await
            .map_err(|e| e.to_string())?;
        let look = look(&session, deadline).await;
        session.close().await;
        look
    };
    match looked.await {
        Ok(look) if boot_id.is_none_or(|boot_id| boot_id == look.boot_id) => (
            Ending::Untouched,
            "the controller ended before the boot; the host was looked at again, and still runs its old system".into(),
        ),
        Ok(look) => {
            let os = if look.os.is_empty() { "a system without a name" } else { &look.os };
            let reason = format!("the controller ended before the boot; somebody else rebooted the host since: {os}");
            (Ending::Untouched, reason)
        }
        Err(why) => (
            Ending::Held,
            format!(
                "the controller ended before the boot, so this run left the host's disks alone; but it can't be \
                 reached now to make sure: {why}. `anemos attach` tries again"
            ),
        ),
    }
}
