//! The shell scripts that start a stage and look at a system. POSIX sh; both are tested under dash and busybox, and
//! handed over by each login shell that is installed.

use anemos_proto::agent::NOTE;
use anemos_proto::stage::MOUNTED_AS;

use super::packing::StageBinary;

/// What marks our lines among whatever else a login shell prints.
pub const MARK: &str = "anemos: ";

/// Where an earlier deployment left the stage, as the executable that it is: a system may lack what it once was packed
/// for.
const CACHED: &str = "/var/cache/anemos/stage";

/// Says what a root file system is: the number of the file system, which mkfs makes anew, and the machine id.
const IDENTITY: &str = "$(stat -f -c %i / 2>/dev/null)-$(cat /etc/machine-id 2>/dev/null)";

/// A script that finds a place for the stage, gets it (from the host's cache, or packed from standard input), and
/// becomes it.
///
/// It says `anemos: need PACKING ID` or `anemos: have ID`, or `anemos: error …`. The stage's hello follows. The packing
/// is the first of the stage's that the host's own tools can unpack, as a tiny sample of each shows: that a tool is
/// there is not enough, since busybox's `xz` lacks the filters, and a host may lack the memory.
pub fn bootstrap(stage: &StageBinary) -> String {
    let StageBinary { digest, arch, .. } = stage;
    let choices: Vec<String> = stage
        .packed
        .iter()
        .map(|(how, bytes)| format!(r#"try {} {} "{}" "{}""#, how.name, bytes.len(), how.unpack, how.sample))
        .collect();
    let choose = choices.join(" || ");
    // `head -c` may read further than it writes, so nothing may be sent after the stage until that has spoken.
    format!(
        r##"set -u; umask 077; LC_ALL=C; export LC_ALL;
say() {{ printf "{MARK}%s\n" "$*"; }};
die() {{ say "error $*"; exit 1; }};
u=$(id -u 2>&1) || die "the host can not say who is logged in: $u";
[ "$u" = 0 ] || die "the user $(id -un) is not root";
m=$(uname -m 2>&1); [ "$m" = {arch} ] || die "this anemos carries a stage for {arch}, and the host says $m";
f=; why=;
leave() {{ if [ $c = tmpfs ]; then umount $d; fi; rmdir $d; }} 2>/dev/null;
for c in /var/lib/anemos /root/.anemos /run/anemos tmpfs; do
d=$c; [ $c = tmpfs ] && d=/run/anemos;
[ -L "$d" ] && why="$why $d is a link;" && continue;
w=$(mkdir -p "$d" 2>&1) || {{ why="$why $(echo $w);"; continue; }};
if [ $c = tmpfs ]; then w=$(mount -t tmpfs -o mode=700,nosuid,nodev {MOUNTED_AS} $d 2>&1) ||
{{ why="$why $(echo $w);"; rmdir $d 2>/dev/null; continue; }}; fi;
[ "$(stat -c %u "$d" 2>/dev/null || echo 0)" = 0 ] && chmod 700 "$d" ||
{{ why="$why $d belongs to somebody else;"; continue; }};
f=$d/stage-$$;
w=$( {{ printf "#\041/bin/sh\nexit 0\n" >"$f" && chmod 700 "$f" && "$f"; }} 2>&1) && break;
why="$why $(echo $w);"; rm -f "$f"; leave; f=;
done;
[ -n "$f" ] || die "none of /var/lib/anemos, /root/.anemos, /run/anemos and a tmpfs
can be written and hold programs:$why";
trap "rm -f $f $f.packed; leave" EXIT;
trap "exit 1" HUP INT TERM;
good() {{ [ "$(sha256sum <"$f" | cut -c1-64)" = {digest} ]; }};
try() {{ [ "$(printf "$4" | $3 2>/dev/null)" = x ] && how=$1 size=$2 unpack=$3; }};
if cat {CACHED} >"$f" 2>/dev/null && good; then say "have {IDENTITY}";
else
{choose} ||
die "the host has nothing that unpacks the stage; install one of xz, zstd and gzip";
say "need $how {IDENTITY}";
head -c $size >"$f.packed" || die "$d can not be written";
n=$(wc -c <"$f.packed"); [ $n = $size ] || die "the stage arrived damaged: $n of $size bytes";
$unpack <"$f.packed" >"$f" ||
die "the stage, which came as $how, can not be unpacked into $d: it is full, or $unpack failed";
good || die "the stage arrived damaged: the SHA-256 of what $unpack made of it is another";
rm -f "$f.packed";
fi;
exec "$f" serve --dir "$d""##
    )
}

/// A command that says which system this is: boot id, root file system, name, and what a RAM system noted in the
/// firmware.
pub fn look() -> String {
    // Nobody can seek in a variable of the firmware, which tail(1) would try.
    let script = format!(
        r#"LC_ALL=C; export LC_ALL;
printf "{MARK}boot %s\n" "$(cat /proc/sys/kernel/random/boot_id)";
printf "{MARK}root %s\n" "{IDENTITY}";
printf "{MARK}os %s\n" "$(. /etc/os-release 2>/dev/null; printf %s "${{PRETTY_NAME-}}")";
n=/sys/firmware/efi/efivars/{NOTE};
if [ -r $n ]; then printf "{MARK}note %s\n" "$(cat $n | tail -c +5)"; fi"#
    );
    quoted(&script, &[])
}

/// `sh -c` with the script as one word, and others as its arguments, for whatever shell the user has.
///
/// csh takes a newline for the end of a quoted word and `!` for history even there, fish takes the backslash before
/// another or before a quote away, and a quote within quotes is spelt in one way that all understand but is long: so a
/// script has none of them. The newlines in its source are for its reader, and each follows a `;` or a word after which
/// the shell goes on reading.
pub fn quoted(script: &str, arguments: &[&str]) -> String {
    let word = |text: &str| {
        debug_assert!(!text.contains(['!', '\'']) && !text.contains(r"\\"), "{text}");
        format!("'{}'", text.replace('\n', " "))
    };
    let mut command = format!("exec sh -c {}", word(script));
    if !arguments.is_empty() {
        command.push_str(" anemos");
    }
    for argument in arguments {
        command.extend([" ", &word(argument)]);
    }
    command
}

/// The rest of a line that we marked.
pub fn marked(line: &str) -> Option<&str> {
    // A prompt or a colour code without a newline may stand before it.
    line.find(MARK).map(|at| line[at + MARK.len()..].trim_end())
}
