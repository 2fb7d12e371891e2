//! What a person at the machine's own screen sees.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Writes a line to every console and to the kernel's ring buffer. Nothing is done about failures: there is nobody to
/// tell.
pub fn say(text: &str) {
    for line in text.lines() {
        for console in consoles() {
            // A serial line with flow control must not stop the agent.
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
            if let Ok(mut file) = OpenOptions::new().write(true).custom_flags(flags).open(&console) {
                let _ = file.write_all(format!("\r\nanemos: {line}\r\n").as_bytes());
            }
        }
        if let Ok(mut file) = OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = file.write_all(format!("<6>anemos: {line}\n").as_bytes());
        }
    }
}

fn consoles() -> Vec<String> {
    let listed = std::fs::read_to_string("/proc/consoles").unwrap_or_default();
    let mut found: Vec<String> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(|name| format!("/dev/{name}")).collect();
    found.retain(|path| std::path::Path::new(path).exists());
    if found.is_empty() {
        found.push("/dev/console".into());
    }
    found
}

/// The same, unless this is not a machine of ours.
pub fn say_if(machine: bool, text: &str) {
    if machine {
        say(text);
    }
}
