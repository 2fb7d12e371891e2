//! Disks that keep some of their partitions: a file as the disk, with real partitions, file systems and mounts.

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::is_root;
use makeimg::build::{self, Machine};
use makeimg::command::{Cancel, Context};
use makeimg::disk::{Disk, Wanted};
use makeimg::project::{self, Request};
use makeimg::report::Report;
use makeimg::volumes::{self, Volume};
use makeimg::words::{Filesystem, Table};
use rustix::mount::{UnmountFlags, unmount};

const MIB: u64 = 1 << 20;

/// A disk, and what is to be undone.
struct Lab {
    dir: tempfile::TempDir,
    roots: Vec<PathBuf>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.roots.iter().for_each(|root| unmount_all(root));
        detach_all(&self.disk());
    }
}

/// Detaches the loop devices of a file, and before them those of theirs. A test that fails ends here, too, so nothing
/// is asserted.
fn detach_all(file: &Path) {
    let losetup = || Command::new("/sbin/losetup");
    let Ok(listed) = losetup().args(["--noheadings", "--output=NAME", "-j"]).arg(file).output() else { return };
    for device in String::from_utf8_lossy(&listed.stdout).lines().map(str::trim) {
        detach_all(Path::new(device));
        let _ = losetup().args(["-d", device]).status();
    }
}

impl Lab {
    fn new(table: &str) -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap(), roots: Vec::new() };
        File::create(lab.disk()).unwrap().set_len(600 * MIB).unwrap();
        lab.partition(table);
        lab
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn partition(&self, script: &str) {
        let mut sfdisk = Command::new("/sbin/sfdisk");
        let mut child = sfdisk.args(["--quiet", "--no-reread"]).arg(self.disk()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn ext4(&self, label: &str, start: u64, mib: u64) {
        let offset = format!("offset={}", start * MIB);
        let mut mkfs = Command::new("/sbin/mkfs.ext4");
        run(mkfs.args(["-q", "-F", "-L", label, "-E", &offset]).arg(self.disk()).arg(format!("{mib}M")));
    }

    fn read(&self, start: u64, bytes: u64) -> Vec<u8> {
        let mut file = File::open(self.disk()).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut read = Vec::new();
        file.take(bytes).read_to_end(&mut read).unwrap();
        read
    }

    fn write(&self, start: u64, bytes: &[u8]) {
        let mut file = File::options().write(true).open(self.disk()).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn dump(&self) -> String {
        run(Command::new("/sbin/sfdisk").arg("--dump").arg(self.disk()))
    }

    /// The partitions, as `number start size`, in MiB.
    fn parts(&self) -> Vec<String> {
        let prefix = self.disk().display().to_string();
        let field = |line: &str, name: &str| {
            let value = line.split(',').find_map(|field| field.trim().strip_prefix(name).map(str::to_owned));
            value.unwrap().trim().parse::<u64>().unwrap() / 2048
        };
        let dump = self.dump();
        let parts = dump.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once(" : "));
        parts
            .map(|(number, line)| format!("{} {} {}", number.trim(), field(line, "start="), field(line, "size=")))
            .collect()
    }

    /// Begins a new system on it.
    fn begin(&mut self, table: Table, lines: &[&str]) -> Result<Disk, String> {
        self.begin_with(&context(), table, lines)
    }

    fn begin_with(&mut self, context: &Context, table: Table, lines: &[&str]) -> Result<Disk, String> {
        self.begin_on(&self.disk(), context, table, lines)
    }

    fn begin_on(&mut self, disk: &Path, context: &Context, table: Table, lines: &[&str]) -> Result<Disk, String> {
        let volumes = volumes::together(lines.iter().map(|line| Volume::parse(line).unwrap()).collect()).unwrap();
        let wanted =
            Wanted { size: 0, table, filesystem: Filesystem::Ext4, grub: true, volumes, seed: None, keys: Vec::new() };
        let root = self.dir.path().join(format!("root{}", self.roots.len()));
        fs::create_dir(&root).unwrap();
        self.roots.push(root.clone());
        Disk::device(context, wanted, disk, self.dir.path(), &root).map_err(|problem| {
            format!("{}\n{}", problem.what, problem.hint.unwrap_or_default()).replace(&self.place(), "")
        })
    }

    fn place(&self) -> String {
        format!("{}/", self.dir.path().display())
    }
}

/// Unmounts what is mounted at a path and below, the last first.
fn unmount_all(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let below: Vec<&Path> = places.filter(|place| place.starts_with(root)).collect();
    for place in below.into_iter().rev() {
        let _ = unmount(place, UnmountFlags::empty());
    }
}

fn context() -> Context {
    Context { report: Arc::new(Report::new(|_| {})), cancel: Cancel::default() }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn written(path: &Path) {
    fs::write(path, "new\n").unwrap();
}

const GPT: &str = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n1 : start=2MiB, size=90MiB\n\
                   3 : start=100MiB, size=50MiB, uuid=AAAAAAAA-2222-3333-4444-555555555555, \
                   name=\"kept, bootable,one\"\n4 : start=300MiB, size=20MiB\n";

#[test]
fn kept_partitions() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new(GPT);
    lab.ext4("old", 2, 90);
    lab.ext4("srv", 100, 50);
    let before = lab.read(100 * MIB, 50 * MIB);
    let lines = ["/ 200M", "/var 40M", "/srv 30M keep", "/new 35M keep"];
    // The second time finds what the first has made.
    for first in [true, false] {
        let disk = lab.begin(Table::Msdos, &lines).unwrap();
        // While it is built, nothing else is in the table.
        assert_eq!(lab.parts(), if first { vec!["3 100 50"] } else { vec!["3 100 50", "6 190 35"] });
        assert!(lab.read(0, 440).iter().all(|byte| *byte == 0), "the old boot code is still there");
        let root = lab.roots.last().unwrap();
        written(&root.join("etc"));
        written(&root.join("var/log"));
        let fstab = disk.fstab();
        assert!(
            fstab.contains(" /srv ext4 defaults,nofail 0 2\n") && fstab.contains(" /var ext4 defaults 0 2\n"),
            "{fstab}"
        );
        assert_eq!(disk.kept_paths().collect::<Vec<_>>(), if first { vec!["/srv"] } else { vec!["/srv", "/new"] });
        disk.finish(&context()).unwrap();
        let dump = lab.dump();
        assert!(
            dump.contains("label: gpt") && dump.contains("label-id: 11111111-2222"),
            "the table's kind stays: {dump}"
        );
        assert!(dump.contains("uuid=AAAAAAAA-2222-3333-4444-555555555555, name=\"kept, bootable,one\""), "{dump}");
        assert_eq!(lab.parts().len(), 6, "{dump}");
        assert!(lab.read(100 * MIB, 50 * MIB) == before, "what is kept has changed");
        unmount_all(root);
    }
}

#[test]
fn what_cannot_be_kept_leaves_the_disk_as_it_is() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new(GPT);
    lab.ext4("one", 2, 90);
    lab.ext4("twice", 100, 50);
    lab.ext4("twice", 300, 20);
    let before = lab.read(0, 600 * MIB);
    for (line, expected) in [
        (
            "/srv keep",
            "filesystems: /srv: disk has no partition labelled \"srv\" to keep\n\
             labels on it are: one, twice, twice; with a size, the partition is made where it is not there",
        ),
        (
            "/srv keep LABEL=twice",
            "filesystems: /srv: partitions 3 and 4 of disk are both labelled \"twice\"\ngive one of them another label",
        ),
        (
            "/srv 700M",
            "a disk of 600 MiB has no room for /srv: 700 MiB are needed, and 533 MiB are free in one piece\n",
        ),
    ] {
        assert_eq!(lab.begin(Table::Gpt, &[line]).map(|_| ()).unwrap_err(), expected);
        assert!(lab.read(0, 600 * MIB) == before, "{line}: something was written");
    }
    // Told to stop before anything was written.
    let cancelled = context();
    cancelled.cancel.cancel();
    for line in ["/srv 20M keep LABEL=one", "/srv 20M"] {
        assert_eq!(lab.begin_with(&cancelled, Table::Gpt, &[line]).map(|_| ()).unwrap_err(), "cancelled\n");
        assert!(lab.read(0, 600 * MIB) == before, "{line}: something was written");
    }
    let mut lab = Lab::new("label: sun\n1 : start=0, size=100MiB\n");
    assert_eq!(
        lab.begin(Table::Gpt, &["/srv 20M keep"]).map(|_| ()).unwrap_err(),
        "nothing on disk can be kept: its partition table is of the kind `sun`\n"
    );
    // Two kinds of contents in one place: what would blkid say?
    let mut lab = Lab::new(GPT);
    lab.ext4("srv", 100, 50);
    lab.write(100 * MIB, b"hsqs");
    lab.write(100 * MIB + 28, &[4, 0, 0, 0]);
    let refused = lab.begin(Table::Gpt, &["/srv 20M keep"]).map(|_| ()).unwrap_err();
    assert!(
        refused.starts_with("filesystems: /srv: what partition 3 of disk holds can't be told (blkid failed"),
        "{refused}"
    );
    let mut lab = Lab::new("label: gpt\n1 : start=2MiB, size=20MiB\n");
    let swap = lab.dir.path().join("swap");
    File::create(&swap).unwrap().set_len(20 * MIB).unwrap();
    run(Command::new("/sbin/mkswap").args(["-q", "-L", "data"]).arg(&swap));
    lab.write(2 * MIB, &fs::read(&swap).unwrap());
    assert_eq!(
        lab.begin(Table::Gpt, &["/srv keep LABEL=data"]).map(|_| ()).unwrap_err(),
        "filesystems: /srv: \"data\" is swap, which can't be mounted\n\
         `none keep LABEL=data` keeps it and does not mount it"
    );
}

#[test]
fn an_old_table_with_a_boot_loader() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new(
        "label: dos\nlabel-id: 0x12345678\n1 : start=1MiB, size=90MiB, bootable\n\
         2 : start=100MiB, size=50MiB, bootable\n",
    );
    lab.ext4("data", 100, 50);
    let before = lab.read(100 * MIB, 50 * MIB);
    let disk = lab.begin(Table::Gpt, &["/srv keep LABEL=data"]).unwrap();
    disk.finish(&context()).unwrap();
    assert_eq!(lab.parts(), ["1 150 449", "2 100 50", "3 1 64"]);
    let dump = lab.dump();
    assert!(dump.contains("label-id: 0x12345678") && dump.matches("bootable").count() == 1, "{dump}");
    assert!(lab.read(100 * MIB, 50 * MIB) == before, "what is kept has changed");
}

#[test]
fn what_was_in_a_partition_before_is_gone() {
    if !is_root() {
        return;
    }
    for filesystem in ["ext4", "xfs", "btrfs"] {
        let mut lab = Lab::new("label: gpt\nstart=1MiB, size=100MiB\n");
        lab.write(0, &vec![0xaa; 600 * MIB as usize]);
        let root = format!("/ 350M {filesystem}");
        let disk = lab.begin(Table::Gpt, &[&root, "/var 100M"]).unwrap();
        unmount_all(lab.roots.last().unwrap());
        disk.finish(&context()).unwrap();
        for part in lab.parts() {
            let numbers: Vec<u64> = part.split(' ').map(|number| number.parse().unwrap()).collect();
            let [number, start, size] = numbers[..] else { panic!("{part}") };
            // Room for GRUB has no file system.
            if size > 1 {
                let end = lab.read((start + size) * MIB - 4096, 4096);
                assert!(end.iter().all(|byte| *byte != 0xaa), "{filesystem}: the end of partition {number} is old");
            }
        }
    }
}

/// Firmware takes a FAT for what the number of its clusters makes it (Microsoft's FAT specification 1.03), so it must
/// be made as that, whatever the disk's sectors are.
#[test]
fn firmware_reads_the_loaders_partition() {
    if !is_root() {
        return;
    }
    for (sector, kind) in [(512, "FAT32"), (4096, "FAT16")] {
        let mut lab = Lab::new("label: gpt\n");
        let mut losetup = Command::new("/sbin/losetup");
        let losetup = losetup.args(["--find", "--show", "--sector-size", &sector.to_string()]).arg(lab.disk());
        let device = PathBuf::from(run(losetup).trim());
        let disk = lab.begin_on(&device, &context(), Table::Gpt, &["/"]).unwrap();
        unmount_all(&lab.roots[0].clone());
        disk.finish(&context()).unwrap();
        // Behind the partition for GRUB by BIOS.
        let head = lab.read(2 * MIB, 512);
        let number = |at: usize, bytes: usize| head[at..at + bytes].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        let (size, per_cluster, reserved, fats) = (number(11, 2), number(13, 1), number(14, 2), number(16, 1));
        assert_eq!(size, sector);
        let of_fat = if number(22, 2) == 0 { number(36, 4) } else { number(22, 2) };
        let all = if number(19, 2) == 0 { number(32, 4) } else { number(19, 2) };
        let root = (number(17, 2) * 32).div_ceil(size);
        let clusters = (all - reserved - fats * of_fat - root) / per_cluster;
        let counted = match clusters {
            0..4085 => "FAT12",
            4085..65525 => "FAT16",
            _ => "FAT32",
        };
        let made = if number(22, 2) == 0 { "FAT32" } else { "FAT16" };
        assert_eq!((made, counted), (kind, kind), "{clusters} clusters of {per_cluster} sectors of {size} bytes");
    }
}

/// A file with a root of 350 MiB of this kind, as it is after a build.
fn root_of(filesystem: &str) -> (Lab, PathBuf) {
    let mut lab = Lab::new("label: gpt\nstart=1MiB, size=100MiB\n");
    let disk = lab.begin(Table::Gpt, &[&format!("/ 350M {filesystem}")]).unwrap();
    written(&lab.roots.last().unwrap().join("file"));
    disk.finish(&context()).unwrap();
    unmount_all(lab.roots.last().unwrap());
    let root = lab.parts().into_iter().find(|part| part.ends_with(" 350")).unwrap();
    let start: u64 = root.split(' ').nth(1).unwrap().parse().unwrap();
    let part = lab.dir.path().join("part");
    fs::write(&part, lab.read(start * MIB, 350 * MIB)).unwrap();
    (lab, part)
}

#[test]
fn features_of_a_file_system_are_those_that_are_known_for_long() {
    if !is_root() {
        return;
    }
    let (_lab, part) = root_of("ext4");
    let said = run(Command::new("/sbin/dumpe2fs").arg("-h").arg(&part));
    let line = said.lines().find_map(|line| line.strip_prefix("Filesystem features:")).unwrap();
    // `needs_recovery` is no feature, but what is so while it is mounted.
    let mut features: Vec<&str> = line.split_whitespace().filter(|word| *word != "needs_recovery").collect();
    features.sort_unstable();
    let known = "64bit dir_index dir_nlink ext_attr extent extra_isize filetype flex_bg has_journal huge_file \
                 large_file metadata_csum resize_inode sparse_super";
    assert_eq!(features.join(" "), known);

    let (_lab, part) = root_of("xfs");
    let said = run(Command::new("/sbin/xfs_db").args(["-r", "-c", "version"]).arg(&part));
    // `ATTR` is set when a file first has an attribute.
    let features = said.trim().rsplit_once("= ").unwrap().1.replace(",ATTR,", ",");
    // What Linux 5.4 made by itself.
    let known = "V5,NLINK,DIRV2,ALIGN,LOGV2,EXTFLG,MOREBITS,ATTR2,LAZYSBCOUNT,PROJID32BIT,CRC,FTYPE,FINOBT,\
                 SPARSE_INODES,REFLINK";
    assert_eq!(features, known);

    let (_lab, part) = root_of("btrfs");
    let said = run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&part));
    let flags = |head: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(head)).unwrap();
        u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap()
    };
    // FREE_SPACE_TREE and its VALID; MIXED_BACKREF, BIG_METADATA, EXTENDED_IREF, SKINNY_METADATA, NO_HOLES (btrfs(5)).
    assert_eq!((flags("compat_ro_flags"), flags("incompat_flags")), (0x3, 0x361));
}

/// GRUB's own code, run as a program: a disk that it can't read does not boot.
#[test]
fn grub_reads_the_file_systems_that_are_made() {
    if !is_root() {
        return;
    }
    for filesystem in ["ext2", "ext4", "xfs", "btrfs"] {
        let (_lab, part) = root_of(filesystem);
        let text = run(Command::new("grub-fstest").arg(&part).args(["cat", "(loop0)/file"]));
        assert_eq!(text, "new\n", "{filesystem}");
    }
}

/// On a machine's disk as in an image: subvolumes, how they are mounted, and what mkfs is told besides.
#[test]
fn subvolumes_and_options() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("label: gpt\nstart=1MiB, size=100MiB\n");
    let lines = [
        "/home subvol=@home options=noatime",
        "/ 350M btrfs subvol=@ options=compress=zstd:3 mkfs=-n mkfs=8192",
        "/var 60M ext4 options=data=journal mkfs=-E mkfs=stride=2 mkfs=-N77",
        "swap 40M options=pri=3",
    ];
    let disk = lab.begin(Table::Gpt, &lines).unwrap();
    let root = lab.roots.last().unwrap().clone();
    written(&root.join("file"));
    written(&root.join("home/file"));
    let (fstab, uuid) = (disk.fstab(), |line: &str| line.split(' ').next().unwrap().to_owned());
    let told: Vec<(String, &str)> = fstab.lines().map(|line| (uuid(line), line.split_once(' ').unwrap().1)).collect();
    assert_eq!(told[0].1, "/ btrfs subvol=@,compress=zstd:3 0 0");
    assert_eq!(told[1], (told[0].0.clone(), "/home btrfs subvol=@home,noatime 0 0"));
    assert_eq!(told[2].1, "/var ext4 data=journal 0 2");
    assert_eq!(told[3].1, "none swap sw,pri=3 0 0");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.contains(&format!(" {} ", root.display()))).unwrap();
    assert!(mount.contains("compress=zstd:3") && mount.contains("subvol=/@"), "{mount}");
    disk.finish(&context()).unwrap();
    unmount_all(&root);
    let part = |mib: u64| {
        let part = lab.parts().into_iter().find(|part| part.ends_with(&format!(" {mib}"))).unwrap();
        let start: u64 = part.split(' ').nth(1).unwrap().parse().unwrap();
        let file = lab.dir.path().join("part");
        fs::write(&file, lab.read(start * MIB, mib * MIB)).unwrap();
        file
    };
    let btrfs = part(350);
    for path in ["@/file", "@home/file"] {
        let text = run(Command::new("grub-fstest").arg(&btrfs).args(["cat", &format!("(loop0)/{path}")]));
        assert_eq!(text, "new\n", "{path}");
    }
    let told = run(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&btrfs));
    assert!(told.lines().any(|line| line.split_whitespace().eq(["nodesize", "8192"])), "{told}");
    let told = run(Command::new("/sbin/dumpe2fs").arg("-h").arg(part(60)));
    assert!(told.contains("RAID stride:              2") && told.contains("Inode count:              "), "{told}");
}

#[test]
fn what_a_machine_cannot_build_is_refused_before_anything_is_done() {
    if !is_root() {
        return;
    }
    let targets = [
        ("format=custom", "IMGBUILD:2: format: with `custom`, setup() makes the layout of the disk"),
        ("target=arch", "project/mirrorlist: there is no such file, and no pacman.conf that says where packages are"),
        ("format='raw 8G gpt f2fs'", "IMGBUILD:2: format: a machine does not make f2fs on its own disk"),
        ("target=alpine", "IMGBUILD:2: target: a machine does not build `alpine` on its own disk"),
    ];
    for (line, words) in targets {
        refused_before_anything_is_done(line, words);
    }
}

fn refused_before_anything_is_done(line: &str, words: &str) {
    let lab = Lab::new("label: gpt\nstart=1MiB, size=100MiB, name=theirs\n");
    let [project, work, root] = ["project", "work", "root"].map(|name| lab.dir.path().join(name));
    for dir in [&project, &work, &root] {
        fs::create_dir(dir).unwrap();
    }
    let functions = "setup() {\n    touch setup-ran\n}\ncleanup() {\n    touch cleanup-ran\n}\n";
    let imgbuild = format!("target=debian\n{line}\n{functions}");
    fs::write(project.join("IMGBUILD"), imgbuild).unwrap();
    let before = lab.read(0, 4 * MIB);
    let request = Request { project: project.clone(), output_dir: work.clone(), ..Request::default() };
    let mut job = project::read(&request).job.unwrap();
    job.work = work;
    let offer = |_: &_| Ok(Vec::new());
    let machine = Machine { disk: &lab.disk(), root: &root, cmdline: "", offer: &offer };
    let refused = build::deploy(&job, &context(), &machine).unwrap_err().to_string();
    assert!(refused.contains(words), "{refused}");
    assert!(lab.read(0, 4 * MIB) == before, "the disk was written to");
    assert!(!project.join("setup-ran").exists() && !project.join("cleanup-ran").exists());
}
