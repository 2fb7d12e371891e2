//! Payloads that take more than they should, and what an agent that is started again knows of them.

use super::*;

#[test]
fn a_shell_opens_while_a_payload_floods() {
    // One line of a megabyte, then what can't be compressed, for as long as somebody reads it: about as much as an
    // agent without optimisations takes.
    let script = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\necho\n\
                  while head -c 30000 /dev/urandom | base64; do sleep 0.2; done\n";
    let trial = Trial::new(&Setup { script, ..Setup::default() });
    let mut controller = trial.attach(0);
    controller.until(|kind| matches!(kind, EventKind::Log { line, .. } if line.len() == 1_000_000 % 16_384));
    let pieces = controller.events.iter().filter_map(|event| match &event.kind {
        EventKind::Log { line, .. } if line.iter().all(|&byte| byte == b'x') => Some(line.len()),
        _ => None,
    });
    assert_eq!(pieces.sum::<usize>(), 1_000_000);
    controller.until(|kind| matches!(kind, EventKind::Log { line, .. } if line.len() == 76));
    let began = Instant::now();
    assert_eq!(trial.run(&[], "echo in").stdout, b"in\n");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    controller.ask(&AgentRequest::Abort);
    assert_eq!(controller.reply(), AgentReply::Accepted);
    controller.assert_contiguous();
}

#[test]
fn an_end_that_is_late_comes_before_the_output_that_nobody_read() {
    // More than the connection takes for somebody who doesn't read.
    let script = "#!/bin/sh\necho begun\nhead -c 16000000 /dev/urandom | base64 -w 16000\nexit 3\n";
    let deadlines = Deadlines { dead_man_s: 600, payload_s: 600, ack_s: 2, start_s: 600, hang_s: 600 };
    let trial = Trial::new(&Setup { script, deadlines, ..Setup::default() });
    let mut controller = trial.attach(0);
    controller.until(|kind| matches!(kind, EventKind::Log { line, .. } if line == b"begun"));
    controller.stop(true);
    let deadline = Instant::now() + WAIT;
    // Nobody is let in any more while the agent makes sure that nothing was written.
    while trial.run(&[], "true").status.success() {
        assert!(Instant::now() < deadline, "the payload does not end");
    }
    // The deadline passes.
    std::thread::sleep(Duration::from_secs(u64::from(deadlines.ack_s) + 1));
    controller.stop(false);
    let (seq, _) = controller.outcome();
    controller.assert_contiguous();
    let left_out = controller.events.iter().filter_map(|event| match event.kind {
        EventKind::Gap { bytes, .. } => Some(bytes),
        _ => None,
    });
    assert!(left_out.sum::<u64>() > 1_000_000, "next to nothing was left out");
    controller.ask(&AgentRequest::Ack { seq });
    assert_eq!(trial.left(), "Reboot");
}

#[test]
fn with_raw_access_every_attempt_counts_as_written() {
    let setup = Setup { script: "#!/bin/sh\nexit 3\n", raw_access: true, ..Setup::default() };
    let mut trial = Trial::new(&setup);
    let mut controller = trial.attach(0);
    let (_, outcome) = controller.outcome();
    assert!(
        matches!(&outcome, Outcome::Failed { reason, written: true } if reason.contains("status 3")),
        "{outcome:?}"
    );
    controller.until(|kind| matches!(kind, EventKind::Note { text, .. } if text.contains("raw_access")));
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
    let clean = controller.events.iter().any(|event| matches!(event.kind, EventKind::NothingWritten { .. }));
    assert!(!clean, "{:#?}", controller.events);
    drop(controller);

    // An agent that is started again knows it, too.
    trial.start_again();
    let mut controller = trial.attach(0);
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    controller.ask(&AgentRequest::Abort);
    let AgentReply::Refused(why) = controller.reply() else { panic!() };
    assert!(why.contains("written"), "{why}");
}

#[test]
fn an_agent_that_is_started_again_has_the_payload_that_came_with_a_retry() {
    let mut trial = Trial::new(&Setup { script: "#!/bin/sh\nexit 3\n", ..Setup::default() });
    fs::write(trial.path("sys/block/vda/stat"), "0 0 0 0 0 0 9 0\n").unwrap();
    let mut controller = trial.attach(0);
    controller.until(|kind| matches!(kind, EventKind::State(AgentState::Held(_))));
    let AgentReply::Attached { .. } = controller.reply() else { panic!() };
    let mended = payload("#!/bin/sh\necho mended\nexit 4\n");
    let blob = BlobRef { digest: sha256::digest(&mended), size: mended.len() as u64 };
    let retry = |controller: &mut Controller, data: Vec<u8>| {
        controller.ask(&AgentRequest::Retry { payload: Some(blob) });
        assert_eq!(controller.reply(), AgentReply::Accepted);
        controller.ask(&AgentRequest::Blob { digest: blob.digest, data });
    };
    // What comes damaged leaves nothing behind.
    retry(&mut controller, vec![0; mended.len()]);
    let AgentReply::Refused(why) = controller.reply() else { panic!() };
    assert!(why.contains("send it again"), "{why}");
    assert!(!trial.path("run/upload").exists());
    retry(&mut controller, mended.clone());
    controller.until(|kind| matches!(kind, EventKind::Log { line, .. } if line == b"mended"));
    controller.until(
        |kind| matches!(kind, EventKind::Outcome(Outcome::Failed { reason, .. }) if reason.contains("status 4")),
    );
    assert_eq!(fs::read(trial.path("anemos/payload.tar.zst")).unwrap().len(), payload("#!/bin/sh\nexit 3\n").len());
    drop(controller);

    trial.start_again();
    let mut controller = trial.attach(0);
    let AgentReply::Attached { last, .. } = controller.reply() else { panic!() };
    controller.ask(&AgentRequest::Retry { payload: None });
    let deadline = Instant::now() + WAIT;
    loop {
        assert!(Instant::now() < deadline, "{:#?}", controller.events);
        let AgentReply::Event(event) = controller.replies.recv_timeout(WAIT).unwrap() else { continue };
        controller.keep(event.clone());
        match event.kind {
            EventKind::Outcome(Outcome::Failed { reason, .. }) if event.seq > last => {
                assert!(reason.contains("status 4"), "{reason}");
                break;
            }
            _ => {}
        }
    }
}
