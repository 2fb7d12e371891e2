//! What maintainer scripts would have done, and matters.
//!
//! No `ld.so.cache` is needed: every library is in a directory that the dynamic loader searches by itself.

mod skeleton;

pub use skeleton::skeleton_hash;

use crate::{Error, Time, Tree};

/// Where programs look for the certificates of authorities.
const CA_BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const CA_SOURCE: &str = "usr/share/ca-certificates";

/// Applies the skeleton and the fix-ups to a tree of unpacked packages: all of it to the group that every payload gets,
/// and to others what follows from their packages.
pub(crate) fn apply(tree: &mut Tree, made: Time, is_core: bool) -> Result<(), Error> {
    skeleton::apply(tree, is_core)?;
    if is_core {
        skeleton::accounts(tree, made)?;
    }
    certificates(tree)
}

/// One bundle instead of a directory of certificates, in the order of their names.
fn certificates(tree: &mut Tree) -> Result<(), Error> {
    let paths: Vec<String> = tree.below(CA_SOURCE).map(str::to_owned).collect();
    let mut bundle = Vec::new();
    for path in &paths {
        if let Some(certificate) = tree.read(path)?.filter(|_| path.rsplit('.').next() == Some("crt")) {
            bundle.extend_from_slice(&certificate);
            if certificate.last() != Some(&b'\n') {
                bundle.push(b'\n');
            }
        }
    }
    if bundle.is_empty() {
        return Ok(());
    }
    for path in &paths {
        tree.remove(path);
    }
    tree.remove(CA_SOURCE);
    tree.put_file(CA_BUNDLE, 0o644, &bundle)
}
