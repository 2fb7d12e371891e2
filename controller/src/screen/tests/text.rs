use proptest::prelude::*;

use crate::screen::text::{
    Zone, base64, bytes, clip, duration, fit, is_invisible, rfc3339, right, sanitise, sanitise_str, width,
};

#[test]
fn sanitise_table() {
    let table: &[(&[u8], &str)] = &[
        (b"plain", "plain"),
        ("grün 国".as_bytes(), "grün 国"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[38;2;1;2;3mrgb\x1b[m", "rgb"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP1$r\x1b\\dcs", "dcs"),
        (b"\x1b(Bcharset\x1b=", "charset"),
        ("\u{9b}31mc1\u{9d}0;t\u{9c}!".as_bytes(), "c1!"),
        // Broken off: by the end of the line, by a control character, by text.
        (b"cut\x1b", "cut"),
        (b"cut\x1b[12;", "cut"),
        (b"cut\x1b[1\x1b[2mtext", "cuttext"),
        (b"shown \x1b]0;even so", "shown 0;even so"),
        // The rest of a sequence that began on the line before.
        (b"31mtext\x07", "31mtext"),
        // Carriage returns.
        (b" 10%\r 50%\r100%", "100%"),
        (b"crlf\r", "crlf"),
        (b"crlf\r\r\n", " "),
        (b"\r\x1b[Kdone", "done"),
        (b"longer\rx", "x"),
        // Backspaces: spinners.
        (b"wait |\x08/\x08-", "wait -"),
        (b"\x08\x08x", "x"),
        // Tabs.
        (b"a\tb", "a       b"),
        ("国\tb".as_bytes(), "国      b"),
        (b"12345678\tb", "12345678        b"),
        (b"two\nlines", "two lines"),
        (b"\x00\x01\x7fnul", "nul"),
        (b"\xff\xc3", "\u{fffd}\u{fffd}"),
        (b"\x9b31m", "\u{fffd}31m"),
        ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{e0041}f".as_bytes(), "abcdef"),
        ("\u{2764}\u{fe0f}a\u{e0100}".as_bytes(), "\u{2764}a"),
    ];
    for (raw, shown) in table {
        assert_eq!(sanitise(raw), *shown, "{:?}", String::from_utf8_lossy(raw));
    }
}

/// Ends only if the end of a control string is not looked for at each beginning of one.
#[test]
fn many_beginnings_without_an_end() {
    let line = sanitise("\x1b]x".repeat(1 << 20).as_bytes());
    assert_eq!(line.len(), 1 << 20);
    assert_eq!(sanitise(b"\x1b]a\x1b]b\x07c\x1b]d"), "cd");
}

fn harmless(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || is_invisible(c) || matches!(c, '\u{2028}' | '\u{2029}'))
}

/// Bytes that are mostly trouble.
fn trouble() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        Just(b"\x1b".to_vec()),
        Just(b"\x1b[".to_vec()),
        Just(b"\x1b]".to_vec()),
        Just(b"\x1b\\".to_vec()),
        Just("\u{9b}".as_bytes().to_vec()),
        Just("\u{9d}".as_bytes().to_vec()),
        Just("\u{202e}".as_bytes().to_vec()),
        Just("国".as_bytes().to_vec()),
        Just("e\u{301}".as_bytes().to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\x08".to_vec()),
        Just(b"\t".to_vec()),
        Just(b"31;1m".to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn sanitised_is_harmless(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(harmless(&sanitise(&raw)));
    }

    #[test]
    fn sanitised_trouble_is_harmless(raw in trouble()) {
        let once = sanitise(&raw);
        prop_assert!(harmless(&once), "{once:?}");
        prop_assert_eq!(sanitise_str(&once), once);
    }

    #[test]
    fn plain_text_stays(text in "[ -~äöü国]{0,80}") {
        prop_assert_eq!(sanitise_str(&text), text);
    }

    #[test]
    fn fit_takes_what_it_is_given(text in "[ -~ä国é]{0,40}", columns in 0usize..50) {
        prop_assert_eq!(width(&fit(&text, columns)), columns);
        prop_assert!(width(&clip(&text, columns)) <= columns);
    }

    #[test]
    fn times_are_well_formed(ms in 0u64..253_402_300_800_000) {
        let text = rfc3339(ms);
        prop_assert_eq!(text.len(), 24);
        prop_assert!((1..=12).contains(&text[5..7].parse::<u32>().unwrap()));
        prop_assert!((1..=31).contains(&text[8..10].parse::<u32>().unwrap()));
        prop_assert!(ms == 0 || rfc3339(ms - 1) < text);
    }

    #[test]
    fn readable_never_panics(count in any::<u64>(), seconds in any::<f64>()) {
        prop_assert!(width(&bytes(count)) <= 8);
        prop_assert!(!duration(seconds).is_empty());
    }
}

#[test]
fn human_durations() {
    let table = [
        (0.0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m00s"),
        (185.0, "3m05s"),
        (7620.0, "2h07m"),
        (273_600.0, "3d04h"),
        (-1.0, "0.0 s"),
    ];
    for (seconds, shown) in table {
        assert_eq!(duration(seconds), shown);
    }
}

#[test]
fn times() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
    assert_eq!(rfc3339(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
    assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    assert_eq!(Zone::utc().clock(super::samples::T0 + 61_000), "09:31:01Z");
}

#[test]
fn base64_table() {
    for (raw, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(raw.as_bytes()), text);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
}

#[test]
fn columns() {
    assert_eq!(fit("abc", 5), "abc  ");
    assert_eq!(fit("abcdef", 5), "abcd…");
    assert_eq!(fit("国国国", 4), "国… ");
    assert_eq!(right("abc", 5), "  abc");
    assert_eq!(clip("abc", 0), "");
}
