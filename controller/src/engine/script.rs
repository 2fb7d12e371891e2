//! The two shell scripts that run on hosts. POSIX sh; both are tested under dash and busybox.

use anemos_proto::agent::NOTE;
use anemos_proto::ids::Digest;

/// What marks our lines among whatever else a login shell prints.
pub const MARK: &str = "anemos: ";

/// Says what a root file system is: the number of the file system, which mkfs makes anew, and the machine id.
const IDENTITY: &str = "$(stat -f -c %i / 2>/dev/null)-$(cat /etc/machine-id 2>/dev/null)";

/// A command that finds a place for the stage, gets it (from the host's cache, or `size` bytes of gzip from standard
/// input), and becomes it.
///
/// It says `anemos: need ID` or `anemos: have ID`, or `anemos: error …`. The stage's hello follows.
pub fn bootstrap(stage: &Digest, size: usize, arch: &str) -> String {
    // `head -c` may read further than it writes, so nothing may be sent after the stage until that has spoken.
    let script = format!(
        r#"set -u; umask 077; LC_ALL=C; export LC_ALL
say() {{ printf '{MARK}%s\n' "$*"; }}
die() {{ say "error $*"; exit 1; }}
[ "$(id -u)" = 0 ] || die "the user $(id -un) is not root"
[ "$(uname -m)" = {arch} ] || die "this anemos carries a stage for {arch}, and the host is $(uname -m)"
f=
for d in /var/lib/anemos /root/.anemos /run/anemos; do
mkdir -p "$d" 2>/dev/null && chmod 700 "$d" || continue
f=$d/stage-$$
{{ printf '#!/bin/sh\nexit 0\n' >"$f" && chmod 700 "$f" && "$f"; }} 2>/dev/null && break
rm -f "$f"; rmdir "$d" 2>/dev/null; f=
done
[ -n "$f" ] || die "none of /var/lib/anemos, /root/.anemos, /run/anemos can be written and hold programs"
trap 'rm -f "$f" "$f.gz"; rmdir "$d" 2>/dev/null' EXIT
trap 'exit 1' HUP INT TERM
sum() {{ sha256sum | cut -c1-64; }}
g=/var/cache/anemos/stage.gz
if [ -f $g ] && [ "$(sum <$g)" = {stage} ]; then say "have {IDENTITY}"
else g=$f.gz; say "need {IDENTITY}"
head -c {size} >"$g" || die "$d can't be written"
[ "$(sum <"$g")" = {stage} ] || die "the stage arrived damaged: $(wc -c <"$g") of {size} bytes"
fi
gzip -dc <"$g" >"$f" || die "the stage can't be unpacked into $d"
[ "$g" != "$f.gz" ] || mv -f "$g" "$d/stage.gz"
exec "$f" serve --dir "$d""#
    );
    quoted(&script)
}

/// A command that says which system this is: boot id, root file system, name, and what a RAM system noted in the firmware.
pub fn look() -> String {
    let script = format!(
        r#"LC_ALL=C; export LC_ALL
printf '{MARK}boot %s\n' "$(cat /proc/sys/kernel/random/boot_id)"
printf '{MARK}root %s\n' "{IDENTITY}"
printf '{MARK}os %s\n' "$(. /etc/os-release 2>/dev/null; printf %s "${{PRETTY_NAME-}}")"
n=/sys/firmware/efi/efivars/{NOTE}
[ ! -r $n ] || printf '{MARK}note %s\n' "$(tail -c +5 $n)""#
    );
    quoted(&script)
}

/// `sh -c` with the script as one word, for whatever shell the user has.
fn quoted(script: &str) -> String {
    format!("exec sh -c '{}'", script.replace('\'', r"'\''"))
}

/// The rest of a line that we marked.
pub fn marked(line: &str) -> Option<&str> {
    // A prompt or a colour code without a newline may stand before it.
    line.find(MARK).map(|at| line[at + MARK.len()..].trim_end())
}
