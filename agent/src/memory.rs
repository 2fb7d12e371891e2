//! How much memory there is.

/// Bytes that can be had now without swapping; 0 if the kernel doesn't say.
pub fn available() -> u64 {
    field("MemAvailable:")
}

/// Bytes in all.
pub fn total() -> u64 {
    field("MemTotal:")
}

fn field(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
