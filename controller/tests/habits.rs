//! What people do around a deployment, with the real command, against SSH servers that play the hosts.

#[path = "habits/begun.rs"]
mod begun;
#[path = "hostile/carried.rs"]
mod carried;
#[path = "habits/desk.rs"]
mod desk;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;
#[path = "habits/ram.rs"]
mod ram;
#[path = "habits/runs.rs"]
mod runs;
#[path = "habits/saved.rs"]
mod saved;
#[path = "habits/tools.rs"]
mod tools;
