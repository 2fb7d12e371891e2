//! What happens to the RAM system's kernel before its init: a debugger's hand on the processor.

use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::Result;
use lab::machine::Debugger;

use super::Scene;
use crate::deployment::{LONG, expect, is_log};

/// What the RAM system's kernel says in its first lines, and the old system's never.
const BEGINS: &str = " rdinit=/init";
/// What a kernel says when it starts init.
const INIT: &str = "Run /init as init process";
/// `cli; jmp .` for x86: no interrupt comes any more, and the processor goes round in a circle.
const CIRCLE: [u8; 3] = [0xfa, 0xeb, 0xfe];

/// Stops the machine while the RAM system's kernel starts.
fn stopped(scene: &Scene) -> Result<Debugger> {
    scene.machine().wait_serial(BEGINS, LONG)?;
    let debugger = scene.machine().debug()?;
    expect(!has_said(scene, INIT), "init began before the kernel could be met")?;
    Ok(debugger)
}

/// Whether the RAM system's kernel has said this.
fn has_said(scene: &Scene, text: &str) -> bool {
    scene.machine().serial().split_once(BEGINS).is_some_and(|(_, said)| said.contains(text))
}

/// The kernel jumps to where no code is, until it gives up: one that does so in a thread of its own loses that only.
pub fn panic_early(scene: &mut Scene) -> Result<()> {
    let end = Instant::now() + LONG;
    while scene.machine().panicked().is_none() {
        let mut debugger = stopped(scene)?;
        debugger.kernel_address()?;
        debugger.jump(0)?;
        debugger.leave()?;
        expect(Instant::now() < end, "the kernel did not panic")?;
        let patience = Instant::now() + Duration::from_secs(2);
        while scene.machine().panicked().is_none() && Instant::now() < patience {
            sleep(Duration::from_millis(50));
        }
    }
    scene.release()
}

/// The kernel does nothing any more.
pub fn hang_early(scene: &mut Scene) -> Result<()> {
    let mut debugger = stopped(scene)?;
    let address = debugger.kernel_address()?;
    debugger.write(address, &CIRCLE)?;
    debugger.leave()?;
    scene.release()
}

/// The second processor does nothing any more once the RAM system's kernel has begun, so it does not come up there.
pub fn lose_processor(scene: &mut Scene) -> Result<()> {
    let mut debugger = stopped(scene)?;
    expect(!has_said(scene, "smp: Brought up"), "the second processor came up before it could be stopped")?;
    debugger.go_on_with(1)?;
    scene.debugger = Some(debugger);
    scene.release()?;
    scene.wait("the processors", |line| is_log(line, "online 0 of 0-1"))
}

/// What the payload says of its processors.
pub const PROCESSORS: &str = "cd /sys/devices/system/cpu && echo \"online $(cat online) of $(cat present)\"; cd -\n";
