//! What this machine's apt has among its options.

use std::process::Command;
use std::time::Duration;

use crate::command;

/// How long apt may take to say what its options are.
const ANSWER: Duration = Duration::from_secs(10);

/// The program that says it: apt-config(8).
pub(crate) fn apt_config() -> Command {
    Command::new("apt-config")
}

/// The values of options (apt.conf(5)), each `None` if it isn't set, or if there is no apt.
pub(crate) fn values<const N: usize>(mut apt_config: Command, options: [&str; N]) -> [Option<String>; N] {
    apt_config.arg("shell");
    for (number, option) in options.iter().enumerate() {
        apt_config.args([&format!("o{number}"), *option]);
    }
    let answer = command::run(apt_config, ANSWER, 64 << 10).unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer);
    // One assignment a line, for those options that are set: o3='https://…'
    std::array::from_fn(|number| {
        let mut values = answer.lines().filter_map(|line| line.strip_prefix(&format!("o{number}=")));
        values.next().map(|value| value.trim_matches('\'').to_owned())
    })
}
