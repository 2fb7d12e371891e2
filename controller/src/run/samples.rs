//! Descriptions for tests.

use anemos_proto::ids::{BlobRef, Digest};

use super::describe::Described;
use crate::config;
use crate::engine::{BasePlan, Blob, Trust};
use crate::payload::Needs;
use crate::ssh_config::{Local, Overrides, resolve};

/// A host that is described by a table of this name with `more` in it.
pub fn described(name: &str, more: &str) -> Described {
    let text = format!("[hosts.{name}]\naddress = \"192.0.2.7\"\npayload = \"p\"\ndisk = \"/dev/vda\"\n{more}\n");
    let host = config::one(&text).unwrap();
    let ssh = resolve(&host.address, "", None, &Overrides::from(&host), &Local::default());
    let blob = |text: &str| -> BlobRef { Blob::new(text.as_bytes().to_vec()).id };
    let trust = Trust::load(&ssh, false);
    Described {
        host,
        ssh,
        trust,
        authorized_keys: Vec::new(),
        payload: blob("payload"),
        keeps: Vec::new(),
        is_imgbuild: false,
        needs: Needs::default(),
        is_unsigned: false,
        base: BasePlan {
            lock: blob("lock"),
            digest: Digest([7; 32]),
            groups: vec!["core".into()],
            images: vec![Digest([8; 32])],
            image_size: 1 << 20,
            kernel: None,
            sources: Vec::new(),
            upload: None,
        },
        fallback_mirror: None,
        fallback_snapshot: None,
    }
}
