//! Places that every disk has, in bytes from its beginning or its end.

/// What tables of partitions, and GRUB, count in.
pub const SECTOR: u64 = 512;
/// What partitions are aligned to.
pub const MIB: u64 = 1 << 20;
/// Where partitions begin.
pub const FIRST: u64 = MIB;
/// Left free at the end, for the second copy of a GPT.
pub const END: u64 = MIB;
/// Where the code in the first sector ends. After it come the disk's signature and the table of an MBR.
pub const CODE: usize = 0x1b8;
/// What an encrypted file system of an image leaves at the end of its partition: cryptsetup(8) moves it up by half of
/// that, for the header of 16 MiB.
pub const REDUCE: u64 = 32 * MIB;
