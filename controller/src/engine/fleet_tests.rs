use proptest::prelude::*;

use super::*;

const HOSTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn names(count: usize) -> Vec<String> {
    HOSTS[..count].iter().map(|&name| name.to_owned()).collect()
}

fn limits(parallel: usize, canary: bool, max_failures: usize) -> Limits {
    Limits { parallel, canary, max_failures }
}

/// A fleet of `count` hosts, all of which are to be deployed.
fn fleet(count: usize, limits: Limits) -> Fleet {
    let mut fleet = Fleet::new(&names(count), limits, "hosts.toml");
    fleet.begin(&names(count));
    fleet
}

/// One letter a host: `w` waits, `g` may go, `n` must not.
fn verdicts(fleet: &Fleet) -> String {
    let letter = |host| match fleet.verdict(host) {
        Verdict::Wait(_) => 'w',
        Verdict::Go => 'g',
        Verdict::Never(_) => 'n',
    };
    (0..fleet.hosts.len()).map(letter).collect()
}

fn failed() -> How {
    How::Failed("ended held: the payload exited with status 1".into())
}

/// What happens to which host, as `boot b`, `ok b`, `fail b`, `leave b`.
fn happens(fleet: &mut Fleet, what: &str) -> Result<(), String> {
    let (what, name) = what.split_once(' ').unwrap();
    let host = HOSTS.iter().position(|host| *host == name).unwrap();
    match what {
        "boot" => return fleet.boot(host),
        "ok" => fleet.ended(host, How::Proved),
        "fail" => fleet.ended(host, failed()),
        "leave" => fleet.ended(host, How::Left),
        other => panic!("{other}"),
    }
    Ok(())
}

/// What is tried, the hosts, the limits, and what happens with the verdicts after it.
type Case = (&'static str, usize, Limits, &'static [(&'static str, &'static str)]);

#[test]
fn one_machine_is_met_once() {
    let mut fleet = fleet(3, limits(3, false, 0));
    fleet.met(0, "boot-1");
    fleet.met(1, "boot-2");
    assert_eq!((fleet.twin(2, "boot-1"), fleet.twin(2, "boot-3")), (Some("a"), None));
    // A host that is looked at again may have rebooted.
    fleet.met(0, "boot-3");
    assert_eq!((fleet.twin(2, "boot-1"), fleet.twin(2, "boot-3")), (None, Some("a")));
}

#[tokio::test]
async fn a_machine_that_is_busy_may_be_met_under_its_other_name_soon() {
    let (sender, _) = signal::channel(fleet(2, limits(2, false, 0)));
    let (first, second) = (Seat::new(&sender, 0), Seat::new(&sender, 1));
    let soon = || Instant::now() + std::time::Duration::from_secs(20);
    let (twin, ()) = tokio::join!(second.twin("boot-1", soon()), async { first.met("boot-1") });
    assert_eq!(twin.as_deref(), Some("a"));
    assert_eq!(second.twin("boot-2", soon()).await, None, "all others were met");
    assert_eq!(first.twin("boot-1", Instant::now()).await, None, "none is its own twin");
}

#[test]
fn who_may_go() {
    // What happens, and what each host may do then. A host that is over may, as far as this goes.
    let cases: [Case; 10] = [
        ("one host", 1, limits(4, true, 0), &[("boot a", "g"), ("fail a", "g")]),
        (
            "the first alone, then some at a time",
            5,
            limits(2, true, 0),
            &[("boot a", "gwwww"), ("ok a", "gggww"), ("boot b", "gggww"), ("ok b", "ggggw"), ("ok c", "ggggg")],
        ),
        ("a bad payload costs one", 3, limits(4, true, 0), &[("boot a", "gww"), ("fail a", "gnn")]),
        (
            "the first fails before its boot: the next goes alone",
            3,
            limits(4, true, 0),
            &[("fail a", "ggw"), ("boot b", "ggw"), ("ok b", "ggg")],
        ),
        ("then the next but one", 3, limits(4, true, 0), &[("fail a", "ggw"), ("fail b", "ggg")]),
        (
            "all at once",
            3,
            limits(4, false, 0),
            &[("boot a", "ggg"), ("boot b", "ggg"), ("fail a", "ggg"), ("ok b", "ggg")],
        ),
        ("one after the other", 3, limits(1, false, 0), &[("boot a", "gww"), ("fail a", "gnn")]),
        (
            "one failure is forgiven, but nothing is proved by it",
            4,
            limits(4, true, 1),
            &[("boot a", "gwww"), ("fail a", "ggww"), ("boot b", "ggww"), ("fail b", "ggnn")],
        ),
        (
            "one failure is forgiven without a canary",
            4,
            limits(1, false, 1),
            &[("boot a", "gwww"), ("fail a", "ggww"), ("boot b", "ggww"), ("fail b", "ggnn")],
        ),
        ("the run is left", 3, limits(4, true, 0), &[("boot a", "gww"), ("leave a", "gnn")]),
    ];
    for (what, count, limits, steps) in cases {
        let mut fleet = fleet(count, limits);
        for (step, expected) in steps {
            assert_eq!(happens(&mut fleet, step), Ok(()), "{what}: {step}");
            assert_eq!(verdicts(&fleet), *expected, "{what}: {step}");
        }
    }
}

/// A host that is being prepared when another fails is stopped at the last moment.
#[test]
fn nobody_boots_after_a_failure() {
    let mut fleet = fleet(3, limits(2, false, 0));
    assert_eq!(fleet.boot(0), Ok(()));
    fleet.ended(0, failed());
    let why = fleet.boot(1).unwrap_err();
    assert_eq!(
        why,
        "it was not told to boot, because a was and ended held: the payload exited with status 1; once that is mended, \
         `anemos up hosts.toml b c` deploys what is left (`--max-failures 1` would have gone on)"
    );
    assert_eq!(fleet.verdict(2), Verdict::Never(why));
}

#[test]
fn only_those_that_are_to_be_deployed_count() {
    let mut fleet = Fleet::new(&names(4), limits(4, true, 0), "my hosts.toml");
    fleet.ended(1, failed());
    fleet.begin(&["b".into(), "c".into(), "d".into()]);
    assert_eq!(fleet.verdict(3), Verdict::Wait("waits for c, which goes alone until one host is deployed".into()));
    assert_eq!(fleet.boot(2), Ok(()));
    fleet.ended(2, failed());
    let Verdict::Never(why) = fleet.verdict(3) else { panic!("it may go on") };
    assert!(why.contains("`anemos up 'my hosts.toml' d`"), "{why}");

    let mut alone = Fleet::new(&names(2), limits(4, true, 0), "hosts.toml");
    alone.begin(&["b".into()]);
    assert_eq!(alone.verdict(1), Verdict::Go);
}

#[test]
fn what_is_waited_for_is_said() {
    let mut fleet = fleet(4, limits(2, true, 0));
    let wait = |text: &str| Verdict::Wait(text.into());
    assert_eq!(fleet.verdict(3), wait("waits for a, which goes alone until one host is deployed"));
    fleet.ended(0, failed());
    assert_eq!(fleet.verdict(3), wait("waits for b, which goes alone until one host is deployed"));
    assert_eq!(fleet.boot(1), Ok(()));
    fleet.ended(1, How::Proved);
    assert_eq!(verdicts(&fleet), "gggg");
    let plain = self::fleet(4, limits(2, false, 0));
    assert_eq!(plain.verdict(3), wait("waits for its turn: 2 at a time"));
}

#[test]
fn the_order_in_words() {
    let after = "; should one fail once it is told to boot, no other is told to";
    let cases = [
        (1, limits(4, true, 0), None),
        (2, limits(4, true, 0), Some("first a alone, then b")),
        (3, limits(4, true, 0), Some("first a alone, then 2 at once")),
        (6, limits(4, true, 0), Some("first a alone, then 4 at a time")),
        (3, limits(4, false, 0), Some("all 3 at once")),
        (6, limits(4, false, 0), Some("4 at a time")),
    ];
    for (count, limits, expected) in cases {
        assert_eq!(limits.order(&names(count)), expected.map(|text| format!("{text}{after}")));
    }
    let forgiving = limits(1, true, 2).order(&names(6)).unwrap();
    assert!(forgiving.ends_with("; should more than 2 fail once they are told to boot, no other is told to"));
}

#[tokio::test]
async fn a_seat_that_is_lost_counts() {
    let (sender, _) = signal::channel(Fleet::new(&names(2), limits(1, false, 0), "hosts.toml"));
    let (first, mut second) = (Seat::new(&sender, 0), Seat::new(&sender, 1));
    sender.send_modify(|fleet| fleet.begin(&names(2)));
    assert_eq!(second.verdict(), Verdict::Wait("waits for its turn: 1 at a time".into()));
    assert_eq!(first.boot(), Ok(()));
    let waiting = tokio::spawn(async move {
        while let Verdict::Wait(_) = second.verdict() {
            second.changed().await;
        }
        second.verdict()
    });
    drop(first);
    let Verdict::Never(why) = waiting.await.unwrap() else { panic!("it may go on") };
    assert!(why.contains("a was and is not followed any more"), "{why}");
}

proptest! {
    /// Whatever happens in whatever order: the limits are kept, nobody is forgotten, and each payload that fails costs
    /// no more hosts than were told to boot before.
    #[test]
    fn limits_are_kept(
        count in 1..=6_usize,
        parallel in 1..=4_usize,
        canary: bool,
        max_failures in 0..3_usize,
        events in proptest::collection::vec((0..6_usize, 0..4_u8), 0..60),
    ) {
        let mut fleet = fleet(count, limits(parallel, canary, max_failures));
        let (mut booted, mut over) = (vec![false; count], vec![false; count]);
        let (mut proved, mut failures) = (0, 0);
        for (host, event) in events {
            let host = host % count;
            if over[host] || fleet.verdict(host) != Verdict::Go {
                continue;
            }
            if event < 2 && !booted[host] {
                let told = fleet.boot(host);
                prop_assert_eq!(told.is_ok(), failures <= max_failures);
                booted[host] = told.is_ok();
                let away = (0..count).filter(|&n| booted[n] && !over[n]).count();
                prop_assert!(away <= parallel);
                prop_assert!(!canary || count == 1 || proved > 0 || away <= 1);
            } else {
                let good = event % 2 == 0 && booted[host];
                fleet.ended(host, if good { How::Proved } else { failed() });
                over[host] = true;
                proved += usize::from(good);
                failures += usize::from(!good && booted[host]);
            }
            let busy = (0..count).filter(|&n| !over[n] && fleet.verdict(n) == Verdict::Go).count();
            let waiting = (0..count).filter(|&n| matches!(fleet.verdict(n), Verdict::Wait(_))).count();
            prop_assert!(busy <= parallel);
            prop_assert!(waiting == 0 || busy > 0, "nobody is left to end the waiting");
            prop_assert!(waiting == 0 || failures <= max_failures);
        }
    }
}

/// A fleet whose process has ended goes on as it would have.
#[test]
fn a_fleet_is_put_together_again() {
    let again = |limits, stood: &[Stood]| {
        let mut fleet = Fleet::new(&names(stood.len()), limits, "hosts.toml");
        stood.iter().enumerate().for_each(|(host, stood)| fleet.stand(host, stood.clone()));
        fleet.resume(stood.len() > 1);
        fleet
    };
    let (over, lost) = (Stood::Over(How::Proved), Stood::Over(failed()));
    // The canary goes on, and the others wait for it.
    let mut fleet = again(limits(2, true, 0), &[Stood::Waiting, Stood::Booted, Stood::Waiting]);
    assert_eq!(verdicts(&fleet), "wgw");
    happens(&mut fleet, "ok b").unwrap();
    assert_eq!(verdicts(&fleet), "ggg");
    // One was proved before: so many at a time.
    assert_eq!(verdicts(&again(limits(1, true, 0), &[Stood::Waiting, over.clone(), Stood::Waiting])), "ggw");
    // None was told to boot: one goes alone.
    assert_eq!(verdicts(&again(limits(3, true, 0), &[Stood::Out, Stood::Waiting, Stood::Waiting])), "ggw");
    // What failed before counts.
    let fleet = again(limits(3, false, 0), &[Stood::Waiting, Stood::Booted, lost.clone()]);
    assert_eq!(verdicts(&fleet), "ngg");
    let Verdict::Never(why) = fleet.verdict(0) else { panic!("it goes on") };
    assert!(why.contains("c was and ended held") && why.contains("`anemos up hosts.toml a`"), "{why}");
    assert_eq!(verdicts(&again(limits(3, false, 1), &[Stood::Waiting, Stood::Booted, lost])), "ggg");
}
