//! How much of the machine the files in RAM and the payload may take. Pure.

const MIB: u64 = 1 << 20;

/// The least that a file system in memory gets, and that a payload gets, whatever the machine has.
const LEAST_FILES: u64 = 4 * MIB;
const LEAST_PAYLOAD: u64 = 16 * MIB;

/// What the kernel, the agent and a person's shell keep for themselves while a payload runs: a sixteenth of the memory
/// between these.
const LEAST_KEPT: u64 = 32 * MIB;
const MOST_KEPT: u64 = 512 * MIB;

/// The most processes and threads that any payload gets.
const MOST_PROCESSES: u64 = 32 * 1024;

/// The most compressed bytes of log that are kept.
const MOST_LOG: u64 = 64 * MIB;

/// The limits in bytes of the file systems in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// `/`, with /tmp.
    pub root: u64,
    /// The payload's directory.
    pub payload: u64,
    /// The agent's own directory.
    pub agent: u64,
    /// `/run`.
    pub run: u64,
    /// `/dev/shm`.
    pub shm: u64,
}

/// The limits on a machine with `total` bytes of memory. `files` are those that `/` has now and is about to get from
/// the agent: base and modules.
///
/// Pages of such files can be neither written out nor dropped, so all limits together must leave memory to processes:
/// an eighth of the whole, and a quarter of what the files of `/` leave. `/` gets what its files need. The rest is
/// halved again and again: a half for what is written to `/` and /tmp later, a quarter for the payload's directory, an
/// eighth for the agent's, the last eighth for /run and /dev/shm. Where the files alone take more than seven eighths,
/// every file system gets the least there is, and unpacking fails with numbers.
pub fn sizes(total: u64, files: u64) -> Sizes {
    let free = total.saturating_sub(files);
    let rest = (total - total / 8).saturating_sub(files).min(free - free / 4);
    let share = |part: u64| (rest / part).max(LEAST_FILES);
    Sizes { root: files + share(2), payload: share(4), agent: share(8), run: share(16), shm: share(16) }
}

/// The most compressed bytes of log that are kept in the agent's directory of so many bytes: half of them, since a new
/// payload may have to be received there as well.
pub fn log(agent: u64) -> u64 {
    (agent / 2).min(MOST_LOG)
}

/// How much memory in bytes the payload's processes may take, with the files that they write into memory. `total` is
/// all of the machine's, `available` what can be had now, `held` what files of an earlier attempt take: they stay
/// charged to the payload. The log may still grow by `log`.
pub fn memory(total: u64, available: u64, held: u64, log: u64) -> u64 {
    let kept = (total / 16).clamp(LEAST_KEPT, MOST_KEPT) + log;
    held + available.saturating_sub(kept).max(LEAST_PAYLOAD)
}

/// How many processes and threads the payload may have: half of what the kernel can number (`pid_max`) or has memory
/// for (`threads_max`).
pub fn processes(pid_max: u64, threads_max: u64) -> u64 {
    (pid_max.min(threads_max) / 2).clamp(1, MOST_PROCESSES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_by_machine() {
        // MemTotal of machines with 512 MiB, 1 GiB, 4 GiB and 64 GiB, and a base of 166 MiB with its archives.
        let cases = [
            (462, 280, [280 + 62, 31, 15, 7, 7]),
            (962, 336, [336 + 234, 117, 58, 29, 29]),
            (3919, 336, [336 + 1343, 671, 335, 167, 167]),
            (64_000, 336, [336 + 23_874, 11_937, 5968, 2984, 2984]),
            // Too little for the files.
            (256, 280, [280 + 4, 4, 4, 4, 4]),
        ];
        for (total, files, expected) in cases {
            let Sizes { root, payload, agent, run, shm } = sizes(total * MIB, files * MIB);
            assert_eq!([root, payload, agent, run, shm].map(|size| size / MIB), expected, "{total} MiB");
        }
    }

    #[test]
    fn memory_and_processes_by_machine() {
        let log_of = |total, files| log(sizes(total * MIB, files * MIB).agent);
        let cases = [
            (462, 280, 140, 0, 100),
            (962, 336, 560, 0, 470),
            (3919, 336, 3500, 0, 3191),
            (64_000, 336, 63_000, 0, 62_424),
            // With 300 MiB of files that an earlier attempt left.
            (962, 336, 260, 300, 470),
            // With next to nothing.
            (462, 280, 20, 100, 116),
        ];
        for (total, files, available, held, expected) in cases {
            let limit = memory(total * MIB, available * MIB, held * MIB, log_of(total, files));
            assert_eq!(limit / MIB, expected, "{total} MiB, {available} available, {held} held");
        }
        assert_eq!(processes(32_768, 3600), 1800);
        assert_eq!(processes(32_768, 7600), 3800);
        assert_eq!(processes(32_768, 510_000), 16_384);
        assert_eq!(processes(4_194_304, 510_000), 32_768);
        assert_eq!(processes(0, 0), 1);
    }

    proptest! {
        /// Full file systems leave memory to processes, on any machine that has more than its files need.
        #[test]
        fn limits_sum_to_less_than_the_memory(total in 256u64..1 << 20, files in 32u64..400) {
            let (total, files) = (total * MIB, files * MIB);
            let Sizes { root, payload, agent, run, shm } = sizes(total, files);
            prop_assert!(root >= files + LEAST_FILES);
            if total - total / 8 > files + 16 * LEAST_FILES && total - files > 22 * LEAST_FILES {
                let sum = root + payload + agent + run + shm;
                prop_assert!(sum <= total - total / 8);
                prop_assert!(total - sum >= (total - files) / 4);
            }
        }
    }
}
