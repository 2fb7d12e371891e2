use std::time::Duration;

use super::samples::{Sink, log, report, summary};
use crate::report::{Ending, Phase, Update, feed};
use crate::screen::{Screen, control, run, run_controlled};

#[tokio::test]
async fn run_ends_when_the_channel_closes_and_has_shown_everything() {
    let sink = Sink::default();
    let (sender, receiver) = feed();
    let task = tokio::spawn(run(Screen::plain(Box::new(sink.clone()), &["a".into()]), receiver));
    for i in 0..5000 {
        sender.send(log("a", i, format!("line {i}").as_bytes()));
    }
    sender.send(summary("a", 5000, Ending::Deployed, "Debian"));
    drop(sender);
    tokio::time::timeout(Duration::from_secs(10), task).await.expect("run ends").unwrap();
    let text = sink.text();
    assert_eq!(text.lines().count(), 5002);
    assert!(text.lines().nth(4999).unwrap().ends_with("line 4999"));
    assert!(text.lines().nth(5000).unwrap().contains("deployed: Debian"));
    assert!(text.lines().last().unwrap().starts_with("a phases: "));
}

#[tokio::test]
async fn plans_come_after_the_reports_before_them() {
    let sink = Sink::default();
    let (sender, receiver) = feed();
    let (control, requests) = control();
    let task = tokio::spawn(run_controlled(Screen::plain(Box::new(sink.clone()), &["a".into()]), receiver, requests));
    sender.send(report("a", 0, Update::PhaseStarted(Phase::Probe)));
    control.plans(vec![super::plan::plan()], None).await;
    let shown = sink.text();
    let (probe, plan) = (shown.find("a probe:").unwrap(), shown.find("web1  root@").unwrap());
    assert!(probe < plan, "{shown}");
    let paused = control.pause().await;
    sender.send(report("a", 1, Update::PhaseStarted(Phase::Upload)));
    drop(paused);
    drop(sender);
    tokio::time::timeout(Duration::from_secs(10), task).await.expect("run ends").unwrap();
    assert!(sink.text().contains("a upload:"));
    // Nobody is there any more: neither of these waits.
    control.plans(Vec::new(), None).await;
    drop(control.pause().await);
}
