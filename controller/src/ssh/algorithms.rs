//! Which algorithms and keys a server is offered: what OpenSSH since 7.4 and dropbear since 2018 take by default, SHA-1
//! never; and of these, what ssh_config says.

use std::borrow::Cow;

use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::{AlgorithmKind, Preferred, cipher, compression, kex};
use serde::{Deserialize, Serialize};

use super::keys;

/// How the name of a certificate's algorithm ends.
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// Signatures that users' keys make.
const USER_KEYS: [&str; 8] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    RSA_512,
    RSA_256,
];
const RSA_512: &str = "rsa-sha2-512";
const RSA_256: &str = "rsa-sha2-256";

/// What ssh_config says. Where a list is empty, it says nothing, and Anemos' own is taken.
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
    /// `PubkeyAcceptedAlgorithms`: how the user's keys may sign.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_keys: Vec<String>,
    /// `RequiredRSASize`: bits that an RSA key must have, the host's and the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rsa_bits: Option<u32>,
}

impl Algorithms {
    /// Why this key is not accepted, the host's or the user's.
    pub(super) fn too_short(&self, key: &PublicKey) -> Option<String> {
        let (bits, least) = (key.key_data().rsa()?.key_size(), self.rsa_bits?);
        (bits < least).then(|| format!("it has {bits} bits, and ssh_config's RequiredRSASize is {least}"))
    }

    /// Why this key of the user's is not to be shown.
    pub(super) fn forbids(&self, key: &PublicKey, certified: bool) -> Option<String> {
        let may_sign = match key.algorithm() {
            Algorithm::Rsa { .. } => self.signs(RSA_512, certified) || self.signs(RSA_256, certified),
            other => self.signs(other.as_str(), certified),
        };
        let left_out = || (!may_sign).then(|| "ssh_config's PubkeyAcceptedAlgorithms leaves it out".to_owned());
        self.too_short(key).or_else(left_out)
    }

    /// The hash for signatures of an RSA key of the user's that is not forbidden, where the server takes `best`.
    pub(super) fn rsa_hash(&self, best: HashAlg, certified: bool) -> HashAlg {
        match (self.signs(RSA_512, certified), self.signs(RSA_256, certified)) {
            (true, false) => HashAlg::Sha512,
            (false, true) => HashAlg::Sha256,
            _ => best,
        }
    }

    fn signs(&self, name: &str, certified: bool) -> bool {
        let is = |name: &str| self.user_keys.iter().any(|told| told == name);
        let own = !user_keys().any(|name| is(&name));
        own || if certified { is(&certificate(name)) } else { is(name) }
    }

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
            ("PubkeyAcceptedAlgorithms", &self.user_keys, user_keys().collect()),
        ];
        let unusable =
            |told: &[String], own: &[String]| !told.is_empty() && !told.iter().any(|name| own.contains(name));
        own.into_iter().filter(|(_, told, own)| unusable(told, own)).map(|(option, ..)| option).collect()
    }
}

/// What a certificate of a key of this algorithm is called. The names of some end as the certificates' do.
fn certificate(algorithm: &str) -> String {
    format!("{}{CERTIFICATE}", algorithm.strip_suffix("@openssh.com").unwrap_or(algorithm))
}

/// How a user may sign as far as Anemos knows.
fn user_keys() -> impl Iterator<Item = String> {
    USER_KEYS.into_iter().flat_map(|name| [name.to_owned(), certificate(name)])
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
    fn a_key_of_the_users_is_shown_if_it_may_sign() {
        let key = |kind: &str| {
            let dir = tempfile::tempdir().unwrap();
            let keygen = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-f"])
                .arg(dir.path().join("key"))
                .status();
            assert!(keygen.unwrap().success());
            PublicKey::read_openssh_file(dir.path().join("key.pub")).unwrap()
        };
        let (ed25519, rsa) = (key("ed25519"), key("rsa"));
        let bits = rsa.key_data().rsa().unwrap().key_size();
        let of = |names: &[&str]| Algorithms { user_keys: told(names), ..Algorithms::default() };
        let shown = |names: &[&str], certified| [&ed25519, &rsa].map(|key| of(names).forbids(key, certified).is_none());
        assert_eq!(shown(&[], false), [true, true]);
        assert_eq!(shown(&["ssh-rsa", "ssh-dss"], true), [true, true], "nothing of it is of use");
        assert_eq!(shown(&["ssh-ed25519", "ssh-rsa"], false), [true, false]);
        assert_eq!(shown(&["ssh-ed25519"], true), [false, false]);
        assert_eq!(shown(&["rsa-sha2-256-cert-v01@openssh.com"], true), [false, true]);
        assert_eq!(shown(&["rsa-sha2-256-cert-v01@openssh.com"], false), [false, false]);
        let hash = |names: &[&str]| of(names).rsa_hash(HashAlg::Sha512, false);
        assert_eq!((hash(&["rsa-sha2-256"]), hash(&["rsa-sha2-256", RSA_512])), (HashAlg::Sha256, HashAlg::Sha512));
        assert_eq!(certificate("sk-ssh-ed25519@openssh.com"), "sk-ssh-ed25519-cert-v01@openssh.com");
        let least = |least| Algorithms { rsa_bits: Some(least), ..Algorithms::default() };
        assert_eq!((least(bits).forbids(&rsa, false), least(bits + 1).forbids(&ed25519, false)), (None, None));
        let why = least(bits + 1).forbids(&rsa, false).unwrap();
        assert_eq!(why, format!("it has {bits} bits, and ssh_config's RequiredRSASize is {}", bits + 1));
    }

    #[test]
    fn lists_without_anything_usable_are_named() {
        let algorithms = Algorithms {
            kex: told(&["diffie-hellman-group1-sha1"]),
            ciphers: told(&["3des-cbc", "aes256-ctr"]),
            macs: told(&["hmac-md5"]),
            host_keys: told(&["ssh-ed25519", "rsa-sha2-512"]),
            user_keys: told(&["ssh-rsa", "ssh-dss"]),
            ..Algorithms::default()
        };
        assert_eq!(algorithms.unusable(), ["KexAlgorithms", "MACs", "PubkeyAcceptedAlgorithms"]);
        let certified = Algorithms { host_keys: told(&["ssh-ed25519-cert-v01@openssh.com"]), ..Algorithms::default() };
        assert_eq!(certified.unusable(), [""; 0]);
        assert_eq!(Algorithms::default().unusable(), [""; 0]);
    }
}
