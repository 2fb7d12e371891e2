//! The base initramfs: a Debian userland in memory, pinned byte for byte by `base.lock`.
//!
//! The packages are in [groups](Group), so that a host gets only what its payload needs. Each group has an image of its
//! own, which is unpacked over those of others. It is a pure function of the [`Lock`]: the packages are unpacked
//! without their maintainer scripts, in the order of their names, into a [`Tree`]; what those scripts would have done
//! that matters is done by this library (its *skeleton* and fix-ups, whose hash the lock has too); and the tree is
//! written as a newc cpio with sorted names and fixed times. So an image can be built on any machine, and checked on
//! every one.
//!
//! - [`build`] makes the image from packages, that an [`Archive`] fetches;
//! - [`check`] says which packages have left the mirrors;
//! - [`verify`], [`copy_verified`] and [`fetch_image`] check one that exists, [`copy_images`] several in one file;
//! - [`Segment`] writes the other, small segments of an initramfs;
//! - [`deb::read`] gives the files of any package, such as the lock's kernel.

mod apt_config;
mod apt_sources;
mod archive;
mod build;
mod check;
mod command;
pub mod deb;
mod error;
mod exclude;
mod fetch;
mod fixup;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod lock;
mod newc;
mod proxy;
mod resolve;
mod sha;
mod snapshot;
mod store;
mod time;
mod tree;

pub use apt_sources::{mirrors_from_apt_sources, security_from_apt_sources};
pub use archive::{Archive, Left, Mirrors, Packages};
pub use build::{
    Image, Places, Progress, build, copy_images, copy_verified, fetch_image, fetch_images, images_in, verify,
};
pub use check::check;
pub use error::{Attempt, Error, Failure, ImageError};
pub use exclude::Exclude;
pub use fetch::{Body, Fetcher, Limits};
pub use fixup::skeleton_hash;
pub use lock::{CORE, FORMAT, Group, Kernel, Lock, Package};
pub use newc::{Device, Segment};
pub use proxy::Proxies;
pub use resolve::{BaseList, DEBIAN_KEYRING, ListedGroup, Resolve, Security, Sources, resolve};
pub use sha::{Hasher, HashingWriter, Sha256};
pub use snapshot::{SNAPSHOT_ID, is_template, snapshot_of_apt, snapshot_of_images};
pub use time::Time;
pub use tree::Tree;
