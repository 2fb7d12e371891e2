//! dropbear's host keys, put into the form of OpenSSH's files.
//!
//! dropbear writes the fields of a key one after the other, as RFC 4251 section 5 encodes them: those of the public key
//! (RFC 8709, RFC 5656), and then the secret ones. OpenSSH's form is described in its `PROTOCOL.key`. An RSA key has a
//! number there that dropbear does not keep, so those are left where they are.

use std::collections::BTreeMap;

use crate::root::Root;

/// Where dropbear has them, unless it is told otherwise.
const DIR: &str = "/etc/dropbear";

/// Its file and OpenSSH's.
const FILES: [(&str, &str); 2] =
    [("dropbear_ed25519_host_key", "ssh_host_ed25519_key"), ("dropbear_ecdsa_host_key", "ssh_host_ecdsa_key")];

/// What OpenSSH's private key files begin with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// No field is longer, in bytes.
const LONGEST: usize = 1024;

/// The keys, by the names of OpenSSH's files. What can't be read as one is left out.
pub fn all(root: &Root) -> BTreeMap<String, Vec<u8>> {
    let mut keys = BTreeMap::new();
    for (file, name) in FILES {
        let bytes = root.read(&format!("{DIR}/{file}")).unwrap_or_default();
        if let Some(key) = Key::parse(&bytes) {
            keys.insert(name.to_owned(), key.private().into_bytes());
            keys.insert(format!("{name}.pub"), key.public().into_bytes());
        }
    }
    keys
}

/// A host key.
struct Key {
    kind: String,
    /// The fields of the public key after its kind, encoded.
    public: Vec<u8>,
    /// What OpenSSH has after those, encoded.
    secret: Vec<u8>,
}

impl Key {
    fn parse(mut bytes: &[u8]) -> Option<Self> {
        let kind = std::str::from_utf8(string(&mut bytes)?).ok()?.to_owned();
        let (mut public, mut secret) = (Vec::new(), Vec::new());
        if kind == "ssh-ed25519" {
            // The seed, and the public key.
            let both = string(&mut bytes)?;
            if both.len() != 64 {
                return None;
            }
            put(&mut public, &both[32..]);
            put(&mut secret, both);
        } else if let Some(curve) = kind.strip_prefix("ecdsa-sha2-") {
            let named = string(&mut bytes)?;
            if named != curve.as_bytes() {
                return None;
            }
            put(&mut public, named);
            put(&mut public, string(&mut bytes)?);
            put(&mut secret, string(&mut bytes)?);
        } else {
            return None;
        }
        bytes.is_empty().then_some(Self { kind, public, secret })
    }

    fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put(&mut blob, self.kind.as_bytes());
        blob.extend(&self.public);
        blob
    }

    /// A line.
    fn public(&self) -> String {
        format!("{} {}\n", self.kind, base64(&self.blob()))
    }

    /// A file, without a passphrase.
    fn private(&self) -> String {
        // Twice the same number, by which one sees that it was decrypted rightly; nothing is encrypted.
        let mut inner = vec![0; 8];
        inner.extend(self.blob());
        inner.extend(&self.secret);
        put(&mut inner, b"");
        for byte in 1..=u8::MAX {
            if inner.len().is_multiple_of(8) {
                break;
            }
            inner.push(byte);
        }
        let mut file = MAGIC.to_vec();
        for field in [&b"none"[..], b"none", b""] {
            put(&mut file, field);
        }
        file.extend(1_u32.to_be_bytes());
        put(&mut file, &self.blob());
        put(&mut file, &inner);
        let mut text = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
        let encoded = base64(&file);
        for (at, letter) in encoded.chars().enumerate() {
            if at > 0 && at % 70 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text + "\n-----END OPENSSH PRIVATE KEY-----\n"
    }
}

/// Takes a string, or a number in several bytes, which is encoded alike.
fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (field, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    (length <= LONGEST).then_some(field)
}

fn put(to: &mut Vec<u8>, field: &[u8]) {
    to.extend(u32::try_from(field.len()).unwrap_or_default().to_be_bytes());
    to.extend(field);
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = LETTERS[number >> (18 - 6 * at) & 63];
            text.push(if at > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// A key's file. Its halves do not belong together.
    pub fn ed25519() -> Vec<u8> {
        let mut file = Vec::new();
        put(&mut file, b"ssh-ed25519");
        put(&mut file, &[7; 64]);
        file
    }

    #[test]
    fn openssh_reads_what_dropbear_made() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at(DIR))?;
        let run = |program: &str, arguments: &[&str]| -> std::io::Result<String> {
            let command = Command::new(program).args(arguments).current_dir(dir.path()).output();
            let output = command.map_err(|error| {
                std::io::Error::other(format!("{program}: {error}: tests/install-tools.sh installs it"))
            })?;
            assert!(output.status.success(), "{program}: {output:?}");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let first_two = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
        for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")] {
            // The numbers of some begin with a byte that is zero, or have one less.
            for _ in 0..4 {
                let file = format!("{}/dropbear_{kind}_host_key", root.at(DIR).display());
                let _ = std::fs::remove_file(&file);
                let said = run("dropbearkey", &["-t", kind, "-s", bits, "-f", &file])?;
                let theirs =
                    said.lines().find(|line| line.contains(" AAAA")).expect("dropbearkey prints the public key");
                let keys = all(&root);
                let name = format!("ssh_host_{kind}_key");
                std::fs::write(dir.path().join("key"), &keys[&name])?;
                run("chmod", &["600", "key"])?;
                let read = run("ssh-keygen", &["-y", "-P", "", "-f", "key"])?;
                let ours = String::from_utf8_lossy(&keys[&format!("{name}.pub")]).into_owned();
                assert_eq!(first_two(&ours), first_two(theirs));
                assert_eq!(first_two(&read), first_two(theirs));
                // It signs by the secret half, and what it signed is looked at with the public one.
                std::fs::write(dir.path().join("text"), "text")?;
                std::fs::write(dir.path().join("allowed"), format!("host {ours}"))?;
                let _ = std::fs::remove_file(dir.path().join("text.sig"));
                run("ssh-keygen", &["-Y", "sign", "-f", "key", "-n", "test", "text"])?;
                let verify = "ssh-keygen -Y verify -f allowed -I host -n test -s text.sig <text";
                run("sh", &["-c", verify])?;
            }
            std::fs::remove_dir_all(root.at(DIR))?;
            std::fs::create_dir_all(root.at(DIR))?;
        }
        Ok(())
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let known = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, text) in known.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), *text);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_file_holds_it_is_a_key_or_none(bytes: Vec<u8>, cut in 0..80_usize) {
            let _ = Key::parse(&bytes);
            let whole = ed25519();
            let part = &whole[..cut.min(whole.len())];
            prop_assert_eq!(Key::parse(part).is_some(), part.len() == whole.len());
        }
    }
}
