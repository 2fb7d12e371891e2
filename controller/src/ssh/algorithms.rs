//! Which algorithms a server is offered: what OpenSSH since 7.4 and dropbear since 2018 take by default, SHA-1 never.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{AlgorithmKind, Preferred, cipher, compression, kex};

use super::keys;

/// `known` names the algorithms under which the host is known, which come first. With `certificates`, a host
/// certificate is asked for before a plain key.
pub(super) fn preferred(known: &[String], certificates: bool) -> Preferred {
    let key = keys::preferred_algorithms(known);
    let host_key_certificates: Cow<'static, [Algorithm]> =
        if certificates { key.clone().into() } else { Cow::Borrowed(&[]) };
    Preferred {
        kex: key_exchanges().into(),
        cipher: ciphers().into(),
        key: key.into(),
        host_key_certificates,
        // What is sent is compressed already.
        compression: vec![compression::NONE].into(),
        ..Preferred::DEFAULT
    }
}

/// What russh prefers, and the NIST curves: some servers are told to take nothing else.
fn key_exchanges() -> Vec<kex::Name> {
    use kex::{CURVE25519_PRE_RFC_8731, ECDH_SHA2_NISTP256, ECDH_SHA2_NISTP384, ECDH_SHA2_NISTP521};
    let mut all = Preferred::DEFAULT.kex.to_vec();
    let at = all.iter().position(|name| *name == CURVE25519_PRE_RFC_8731).map_or(0, |at| at + 1);
    all.splice(at..at, [ECDH_SHA2_NISTP256, ECDH_SHA2_NISTP384, ECDH_SHA2_NISTP521]);
    all
}

/// The same with the one cipher that OpenSSH takes and russh leaves out.
fn ciphers() -> Vec<cipher::Name> {
    let mut all = Preferred::DEFAULT.cipher.to_vec();
    all.push(cipher::AES_128_GCM);
    all
}

/// That two lists have nothing in common, in words for people.
pub(super) fn nothing_common(kind: &AlgorithmKind, ours: &[String], theirs: &[String]) -> String {
    let what = match kind {
        AlgorithmKind::Kex => "way to exchange keys",
        AlgorithmKind::Key => "kind of host key",
        AlgorithmKind::Cipher => "cipher",
        AlgorithmKind::Mac => "MAC",
        AlgorithmKind::Compression => "compression",
    };
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let weak = theirs.iter().any(|name| name == "ssh-rsa");
    let more = if weak && matches!(kind, AlgorithmKind::Key) {
        "; ssh-rsa is proved with SHA-1, which is broken: OpenSSH takes it no more since 8.8, and Anemos never did"
    } else {
        ""
    };
    format!("there is no common {what}; the server takes {}; Anemos takes {}{more}", list(theirs), list(ours))
}
