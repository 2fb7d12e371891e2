//! Whether this process may have as many files open as a run needs.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::error::RunError;

/// What each host of a run has open from its probe to its end: its journal and its connection.
const EACH: usize = 2;

/// What a connection through a program has open besides: its input, output and errors, and a hold on the process.
const THROUGH: usize = 3;

/// What a host that is being reached has open beside these: several knocks at a time, and a user's SSH agent.
const REACHING: usize = 8;

/// What a process has open whatever it does.
const OURS: usize = 64;

/// Raises the limit as far as it may be, and says whether it is enough for so many hosts, of which `through` are not
/// reached straight, and `parallel` are being reached at a time.
pub(super) fn enough(hosts: usize, through: usize, parallel: usize) -> Result<(), RunError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Then the limit is what it was.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    // None is as good as any.
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    judge(hosts, through, parallel, current).map_err(RunError::bad_input)
}

fn judge(hosts: usize, through: usize, parallel: usize, limit: u64) -> Result<(), String> {
    let needed = hosts * EACH + through * THROUGH + hosts.min(parallel) * REACHING + OURS;
    if needed as u64 <= limit {
        return Ok(());
    }
    let files = format!("{hosts} host{} need {needed} open files", if hosts == 1 { "" } else { "s" });
    Err(format!(
        "{files}, and this process may have {limit}; nothing was begun. Raise the limit with `ulimit -n {needed}` \
         (`ulimit -Hn` shows how far it goes), or name fewer hosts at a time"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_hosts_need_so_many_files() {
        for (hosts, parallel, limit) in [(500, 16, 1192), (30, 16, 256), (1, 1, 74), (1, 16, 74), (500, 500, 5064)] {
            assert_eq!(judge(hosts, 0, parallel, limit), Ok(()), "{hosts} hosts");
            let enough = (hosts * EACH + hosts.min(parallel) * REACHING + OURS) as u64;
            let why = judge(hosts, 0, parallel, enough - 1).unwrap_err();
            assert!(why.contains(&format!("`ulimit -n {enough}`")), "{why}");
        }
        assert_eq!(judge(500, 100, 16, 1492), Ok(()));
        assert!(judge(500, 100, 16, 1491).is_err());
        assert!(
            judge(500, 0, 16, 1000).unwrap_err().starts_with("500 hosts need 1192 open files, and this process may")
        );
    }
}
