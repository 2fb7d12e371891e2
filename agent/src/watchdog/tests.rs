use std::fs;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

const WELL: Care = Care::Guard { well: true };
const ILL: Care = Care::Guard { well: false };

fn taken(timeout_s: Option<u32>) -> Word {
    Word::Taken { identity: "iTCO_wdt".into(), timeout_s }
}

/// One watchdog with a timeout of 30 s, open since 0.
fn armed() -> Watchdogs {
    let mut all = Watchdogs::default();
    assert_eq!(all.found(&["watchdog0".into()], true, WELL), ["watchdog0"]);
    assert_eq!(all.told(0, "watchdog0", taken(Some(30))), None);
    all
}

/// What it is, what has happened to the watchdog, what is wanted of it and when, and what is ordered.
type Case = (&'static str, fn(&mut Watchdogs), Care, u64, Option<Order>);

#[test]
fn what_is_ordered_of_a_watchdog() {
    use Order::{Feed, Stop};
    let stopping = |all: &mut Watchdogs| {
        all.orders(0, Care::Spare);
    };
    let stopped = |all: &mut Watchdogs| {
        all.orders(0, Care::Spare);
        all.told(0, "watchdog0", Word::Stopped);
    };
    let unstoppable = |all: &mut Watchdogs| {
        all.orders(0, Care::Spare);
        let said = all.told(0, "watchdog0", Word::Unstoppable("busy".into()));
        assert_eq!(
            said.as_deref(),
            Some("watchdog0 (iTCO_wdt, 30 s) can't be stopped (busy): init goes on feeding it")
        );
    };
    let nothing = |_: &mut Watchdogs| {};
    let cases: [Case; 14] = [
        ("fed at a third of the timeout", nothing, WELL, 10_000, Some(Feed)),
        ("and not before", nothing, WELL, 9_999, None),
        ("starved when the agent hangs", nothing, ILL, 10_000, None),
        ("for ever", nothing, ILL, 1_000_000, None),
        ("starved when the machine is to reboot", nothing, Care::LetGo, 10_000, None),
        ("stopped at the first write, at once", nothing, Care::Spare, 1, Some(Stop)),
        ("fed until its driver has answered", stopping, Care::Spare, 10_000, Some(Feed)),
        ("told to stop once", stopping, Care::Spare, 1, None),
        ("left alone when it has stopped", stopped, Care::Spare, 10_000, None),
        ("left alone, whatever comes", stopped, WELL, 10_000, None),
        ("fed when it can't be stopped", unstoppable, Care::Spare, 10_000, Some(Feed)),
        ("at its pace", unstoppable, Care::Spare, 9_999, None),
        ("not told to stop again", unstoppable, Care::Spare, 5_000, None),
        ("starved in the end like others", unstoppable, Care::LetGo, 10_000, None),
    ];
    for (what, happens, care, now, expected) in cases {
        let mut all = armed();
        happens(&mut all);
        let orders: Vec<Order> = all.orders(now, care).into_iter().map(|(_, order)| order).collect();
        assert_eq!(orders, expected.into_iter().collect::<Vec<_>>(), "{what}");
        assert_eq!(all.orders(now, care), [], "{what}: once");
    }
}

#[test]
fn those_that_come_later_are_taken_too() {
    let mut all = armed();
    let names = ["watchdog0".to_owned(), "watchdog1".to_owned()];
    assert_eq!(all.found(&names, true, WELL), ["watchdog1"]);
    assert_eq!(all.orders(10_000, WELL), [("watchdog0".to_owned(), Order::Feed)], "the other is not open yet");
    assert_eq!(all.found(&names, true, WELL), [""; 0], "the old name may be that of one that is not open yet");
    let said = all.told(0, "watchdog1", Word::Refused("Device or resource busy".into()));
    assert_eq!(said.as_deref(), Some("watchdog1 can't be used: Device or resource busy"));
    assert_eq!(all.list(), ["watchdog0 (iTCO_wdt, 30 s)"]);
    assert_eq!(armed().found(&names, true, Care::Spare), [""; 0], "opening it would start it");
}

#[test]
fn one_of_the_old_kind_is_found_by_its_name() {
    let mut all = armed();
    let (one, none) = (["watchdog0".to_owned()], []);
    assert_eq!(all.found(&one, false, WELL), [""; 0], "there is none");
    assert_eq!(all.found(&one, true, WELL), [OLD]);
    assert_eq!(all.told(0, OLD, Word::Refused("it is watchdog0".into())), None);
    assert_eq!(all.found(&one, true, WELL), [""; 0], "it would be so again");
    assert_eq!(all.found(&none, true, WELL), [OLD], "the name is another one's now");
    all.told(5_000, OLD, Word::Taken { identity: String::new(), timeout_s: None });
    assert_eq!(all.list(), ["watchdog (timeout unknown)", "watchdog0 (iTCO_wdt, 30 s)"]);
    assert_eq!(all.orders(5_001, WELL), [(OLD.to_owned(), Order::Feed)], "as often as can be");
}

/// A file stands for the device: it can be written, and knows none of the calls.
#[test]
fn the_thread_does_as_it_is_told() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("watchdog0");
    let (tell, told) = channel();
    let answer = |tell: &std::sync::mpsc::Sender<Word>| {
        let tell = tell.clone();
        move |word| drop(tell.send(word))
    };
    let wait = || told.recv_timeout(Duration::from_secs(30)).unwrap();
    let _orders = keep(path.clone(), 60, answer(&tell))?;
    assert!(matches!(wait(), Word::Refused(_)), "there is none");

    fs::write(&path, "")?;
    let orders = keep(path.clone(), 60, answer(&tell))?;
    assert_eq!(wait(), Word::Taken { identity: String::new(), timeout_s: None });
    assert_eq!(fs::read(&path)?, b"1", "some begin to count only when they are fed");
    orders.send(Order::Feed).unwrap();
    orders.send(Order::Stop).unwrap();
    assert!(matches!(wait(), Word::Unstoppable(_)), "it is kept open");
    orders.send(Order::Feed).unwrap();
    orders.send(Order::Stop).unwrap();
    wait();
    assert_eq!(fs::read(&path)?, b"111");
    Ok(())
}
