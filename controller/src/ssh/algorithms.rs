//! Which algorithms a server is offered: what OpenSSH since 7.4 and dropbear since 2018 take by default, SHA-1 never;
//! and of these, what ssh_config says.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{AlgorithmKind, Preferred, cipher, compression, kex};
use serde::{Deserialize, Serialize};

use super::keys;

/// How the name of a certificate's algorithm ends.
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// Lists that ssh_config makes. Where one is empty, it makes none, and Anemos' own is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Algorithms {
    /// `KexAlgorithms`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kex: Vec<String>,
    /// `Ciphers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ciphers: Vec<String>,
    /// `MACs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<String>,
    /// `HostKeyAlgorithms`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
}

impl Algorithms {
    /// Whether ssh_config says nothing.
    pub fn is_own(&self) -> bool {
        *self == Self::default()
    }

    /// The lists in which is nothing that Anemos knows. Its own are taken instead.
    pub fn unusable(&self) -> Vec<&'static str> {
        let plain = names(&keys::preferred_algorithms(&[]));
        let certificates = plain.iter().map(|name| format!("{name}{CERTIFICATE}"));
        let host_keys = certificates.chain(plain.iter().cloned()).collect();
        let own = [
            ("KexAlgorithms", &self.kex, names(&key_exchanges())),
            ("Ciphers", &self.ciphers, names(&ciphers())),
            ("MACs", &self.macs, names(&Preferred::DEFAULT.mac)),
            ("HostKeyAlgorithms", &self.host_keys, host_keys),
        ];
        let unusable =
            |told: &[String], own: &[String]| !told.is_empty() && !told.iter().any(|name| own.contains(name));
        own.into_iter().filter(|(_, told, own)| unusable(told, own)).map(|(option, ..)| option).collect()
    }
}

fn names<N: AsRef<str>>(algorithms: &[N]) -> Vec<String> {
    algorithms.iter().map(|name| name.as_ref().to_owned()).collect()
}

/// Those of our own that ssh_config has as well, in its order.
fn in_order_of<N: AsRef<str> + Clone>(told: &[String], own: Vec<N>) -> Vec<N> {
    let mut chosen: Vec<N> =
        told.iter().filter_map(|name| own.iter().find(|own| own.as_ref() == *name)).cloned().collect();
    if chosen.is_empty() {
        return own;
    }
    // These stand among the key exchanges and are none: whoever has them says so.
    chosen.extend(
        own.into_iter().filter(|own| own.as_ref().starts_with("ext-info-") || own.as_ref().starts_with("kex-strict-")),
    );
    chosen
}

/// Those of our own that ssh_config has as well, in our order.
fn among<N: AsRef<str> + Clone>(told: &[String], own: &[N]) -> Vec<N> {
    own.iter().filter(|own| told.iter().any(|name| name == own.as_ref())).cloned().collect()
}

/// The kinds of host keys to ask for, and those to ask for a certificate of first.
fn host_keys<N: AsRef<str> + Clone>(told: &[String], own: Vec<N>) -> (Vec<N>, Vec<N>) {
    let certified: Vec<String> =
        told.iter().filter_map(|name| name.strip_suffix(CERTIFICATE)).map(str::to_owned).collect();
    match (among(told, &own), among(&certified, &own)) {
        (plain, certified) if plain.is_empty() && certified.is_empty() => (own.clone(), own),
        // Whoever is known by a certificate may show its key alone when asked again.
        (plain, certified) if plain.is_empty() => (certified.clone(), certified),
        both => both,
    }
}

/// `known` names the algorithms under which the host is known, which come first. With `certificates`, a host
/// certificate is asked for before a plain key.
pub(super) fn preferred(known: &[String], certificates: bool, told: &Algorithms) -> Preferred {
    let (key, certified) = host_keys(&told.host_keys, keys::preferred_algorithms(known));
    let host_key_certificates: Cow<'static, [Algorithm]> =
        if certificates { certified.into() } else { Cow::Borrowed(&[]) };
    Preferred {
        kex: in_order_of(&told.kex, key_exchanges()).into(),
        cipher: in_order_of(&told.ciphers, ciphers()).into(),
        mac: in_order_of(&told.macs, Preferred::DEFAULT.mac.to_vec()).into(),
        key: key.into(),
        host_key_certificates,
        // What is sent is compressed already.
        compression: vec![compression::NONE].into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_ssh_config_says_of_what_there_is_counts() {
        let own = || vec!["a", "b", "kex-strict-c", "c"];
        assert_eq!(in_order_of(&told(&["c", "x", "a"]), own()), ["c", "a", "kex-strict-c"]);
        assert_eq!(in_order_of(&told(&["x"]), own()), own());
        assert_eq!(in_order_of(&[], own()), own());
        let cert = |kind: &str| format!("{kind}{CERTIFICATE}");
        assert_eq!(host_keys(&told(&["c", "x", "a"]), own()), (vec!["a", "c"], Vec::new()));
        assert_eq!(host_keys(&told(&["a", &cert("b")]), own()), (vec!["a"], vec!["b"]));
        assert_eq!(host_keys(&told(&[&cert("b")]), own()), (vec!["b"], vec!["b"]));
        assert_eq!(host_keys(&told(&["x"]), own()), (own(), own()));
        assert_eq!(host_keys(&[], own()), (own(), own()));
    }

    #[test]
    fn lists_without_anything_usable_are_named() {
        let algorithms = Algorithms {
            kex: told(&["diffie-hellman-group1-sha1"]),
            ciphers: told(&["3des-cbc", "aes256-ctr"]),
            macs: told(&["hmac-md5"]),
            host_keys: told(&["ssh-ed25519", "rsa-sha2-512"]),
        };
        assert_eq!(algorithms.unusable(), ["KexAlgorithms", "MACs"]);
        let certified = Algorithms { host_keys: told(&["ssh-ed25519-cert-v01@openssh.com"]), ..Algorithms::default() };
        assert_eq!(certified.unusable(), [""; 0]);
        assert_eq!(Algorithms::default().unusable(), [""; 0]);
    }
}
