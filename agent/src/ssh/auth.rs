//! Who may come in.

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PublicKey};
use russh::server::Auth;

/// The keys that may log in.
#[derive(Debug, Default)]
pub struct Keys {
    allowed: Vec<KeyData>,
}

impl Keys {
    /// Reads `authorized_keys` lines; returns the keys, and a problem for each line that is left out.
    pub fn parse(lines: &[String]) -> (Self, Vec<String>) {
        let (mut keys, mut problems) = (Self::default(), Vec::new());
        for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match PublicKey::from_openssh(line) {
                Ok(key) => keys.allowed.push(key.key_data().clone()),
                // Lines with options are refused too: the server enforces no restrictions, so a restricted key must not
                // be let in.
                Err(error) => problems.push(format!("this line is no plain public key ({error}): {line}")),
            }
        }
        (keys, problems)
    }

    /// Whether nobody could log in.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// Decides on a key that the client offers or has proved, with the algorithm of the signature.
    pub fn judge(&self, key: &PublicKey, algorithm: &Algorithm) -> Auth {
        let sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        if !sha1 && self.allowed.contains(key.key_data()) { Auth::Accept } else { Auth::reject() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ssh-keygen -t ed25519 -N '' -C '' (the keys were thrown away)
    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn accepts(keys: &Keys, line: &str) -> bool {
        let key = PublicKey::from_openssh(line).unwrap();
        keys.judge(&key, &key.algorithm()) == Auth::Accept
    }

    #[test]
    fn only_listed_keys_are_let_in() {
        let lines = [format!("{ONE} somebody@somewhere"), "# a comment".into(), String::new()];
        let (keys, problems) = Keys::parse(&lines);
        assert_eq!(problems, Vec::<String>::new());
        assert!(accepts(&keys, ONE), "the comment doesn't matter");
        assert!(!accepts(&keys, TWO));
        assert!(!accepts(&Keys::default(), ONE));
    }

    #[test]
    fn restricted_and_broken_lines_let_nobody_in() {
        let lines = [format!("command=\"/bin/true\" {ONE}"), "ssh-ed25519 AAAA".into(), "nonsense".into()];
        let (keys, problems) = Keys::parse(&lines);
        assert!(keys.is_empty());
        assert_eq!(problems.len(), 3);
    }

    #[test]
    fn rsa_with_sha1_is_refused() {
        let (keys, _) = Keys::parse(&[ONE.into()]);
        let key = PublicKey::from_openssh(ONE).unwrap();
        assert_ne!(keys.judge(&key, &Algorithm::Rsa { hash: None }), Auth::Accept);
    }
}
