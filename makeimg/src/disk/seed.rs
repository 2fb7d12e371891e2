//! Ids that are the same each time. Disks and file systems get random ones; those of an image that is to be
//! reproducible come from its name and `SOURCE_DATE_EPOCH`.

/// What ids are derived from. Without the feature `images` there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg(feature = "images")]
pub struct Seed {
    imgname: String,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: u64,
}

#[cfg(feature = "images")]
impl Seed {
    /// From the environment; `None` if nobody asks for a reproducible image.
    pub fn from_environment(imgname: &str) -> Option<Self> {
        // `makeimg build` has refused what is no number.
        let epoch = std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()?;
        Some(Self { imgname: imgname.to_owned(), epoch })
    }

    fn bytes(&self, what: &str) -> [u8; 16] {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(format!("makeimg\0{}\0{}\0{what}", self.imgname, self.epoch));
        std::array::from_fn(|at| hash[at])
    }

    /// The UUID of something in the image (RFC 9562, version 8).
    pub fn uuid(&self, what: &str) -> String {
        let mut bytes = self.bytes(what);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = format!("{:032x}", u128::from_be_bytes(bytes));
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// A number for what has a short id, such as FAT; never 0.
    pub fn number(&self, what: &str) -> u32 {
        let [a, b, c, d, ..] = self.bytes(what);
        u32::from_le_bytes([a, b, c, d]).max(1)
    }
}

/// What ids are derived from, of which there is none.
#[cfg(not(feature = "images"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {}

#[cfg(not(feature = "images"))]
impl Seed {
    /// None.
    pub fn from_environment(_: &str) -> Option<Self> {
        None
    }

    /// There is no seed to call it of.
    pub fn uuid(&self, _: &str) -> String {
        match *self {}
    }

    /// There is no seed to call it of.
    pub fn number(&self, _: &str) -> u32 {
        match *self {}
    }
}

#[cfg(all(test, feature = "images"))]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_the_image_its_time_and_what_they_are_for() {
        let seed = |imgname: &str, epoch| Seed { imgname: imgname.into(), epoch };
        let id = seed("web", 1).uuid("root");
        assert_eq!(id, seed("web", 1).uuid("root"));
        for other in [seed("web", 1).uuid("swap"), seed("web", 2).uuid("root"), seed("db", 1).uuid("root")] {
            assert_ne!(id, other);
        }
        let dashes: Vec<usize> = id.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((id.len(), dashes, &id[14..15]), (36, vec![8, 13, 18, 23], "8"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
