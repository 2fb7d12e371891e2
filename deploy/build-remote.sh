#!/bin/sh
# Builds what crosses the slow link (stage and agent, static and small) and packs it: the stage in each way that a host
# may be able to unpack; the agent as a patch to the stage, which is two thirds of it packed alone. There are two agents:
# one with makeimg, for payloads that are an IMGBUILD, and one without, for scripts.
set -eu
target=$1 out=$2
cd "$(dirname "$0")/.."
for tool in readelf:binutils objcopy:binutils gzip:gzip xz:xz-utils zstd:zstd; do
    command -v "${tool%:*}" >/dev/null || { echo "build-remote: ${tool%:*} is missing: apt-get install ${tool#*:}" >&2; exit 1; }
done
# Static, so that they run under any distribution's userland and under none. The flags go by `--config`, so that a
# RUSTFLAGS of the caller's can't replace them and host builds keep their own fingerprints.
mkdir -p "$out"
flags="'-C', 'target-feature=+crt-static', '-C', 'relocation-model=static'"
# Functions whose code is the same become one, where the linker can do that (lld, which rustc brings along since 1.90;
# others make somewhat larger executables). Rust does not promise that functions have addresses of their own, and
# nothing in the C libraries that are linked in compares addresses of its functions.
folding='-Wl,--icf=all'
if echo 'fn main() {}' | rustc --target "$target" -C "link-arg=$folding" -o "$out/folding" - 2>/dev/null; then
    flags="$flags, '-C', 'link-arg=$folding'"
fi
rm -f "$out/folding"
remap=$(deploy/remap.sh "$target")
flags="$flags$remap"
# Of zstd's ways to find matches, those stay that levels up to 6 use, which is what stage and agent pack with; higher levels
# would do with these. Of its decoders one of each kind stays: others are for newer processors and for large windows
# (lib/README.md of zstd).
zstd='-DDYNAMIC_BMI2=0 -DZSTD_FORCE_DECOMPRESS_SEQUENCES_SHORT=1'
for way in LAZY2 BTLAZY2 BTOPT BTULTRA; do zstd="$zstd -DZSTD_EXCLUDE_${way}_BLOCK_COMPRESSOR"; done
built=target/$target/small
compile() {
    env -u RUSTFLAGS "CFLAGS_$(echo "$target" | tr - _)=${CFLAGS-} $zstd" cargo build --locked --profile small --target "$target" \
        --config "target.$target.rustflags=[$flags]" "$@"
}
compile -p anemos-deploy -p anemos-agent
cp "$built/anemos-agent" "$built/anemos-agent-imgbuild"
compile -p anemos-deploy -p anemos-agent --no-default-features
for file in "$built/anemos-stage" "$built/anemos-agent" "$built/anemos-agent-imgbuild"; do
    if readelf -l "$file" | grep -q INTERP; then
        echo "build-remote: $file is not static: it needs $(readelf -l "$file" | sed -n 's/.*interpreter: \(.*\)]/\1/p')" >&2
        exit 1
    fi
    # Nothing unwinds (panic=abort), so the unwind tables are only bytes to send. They are blanked and not removed, because
    # the file's layout must stay.
    for section in .eh_frame .eh_frame_hdr .gcc_except_table; do
        size=$(readelf -SW "$file" | sed -n "s/^ *\[ *[0-9]*\] $section  *[A-Z]* *[0-9a-f]* [0-9a-f]* \([0-9a-f]*\) .*/\1/p")
        test -n "$size" || continue
        head -c "$((0x$size))" /dev/zero >"$out/blank"
        objcopy --update-section "$section=$out/blank" "$file"
    done
    "$file" --version >/dev/null
done
rm -f "$out/blank"
# The controller sends the smallest that the host can unpack (controller/src/engine/packing.rs has a sample of each, made
# with these options). No larger dictionary than the executable, since that is what unpacking takes of the host's
# memory; CRC32, since not every xz has CRC64; lc and pb as suits x86 code, whose instructions are not aligned.
xz="--threads=1 --check=crc32 --lzma2=preset=9e,dict=4MiB,lc=4,lp=0,pb=0"
xz -c --x86 $xz "$built/anemos-stage" >"$out/stage.x86.xz.new"
xz -c $xz "$built/anemos-stage" >"$out/stage.xz.new"
zstd -qq --ultra -22 -c "$built/anemos-stage" >"$out/stage.zst.new"
# -n: no name and no time, so that equal binaries give equal bytes.
gzip -9 -n -c "$built/anemos-stage" >"$out/stage.gz.new"
for packed in "x86.xz xz" "xz xz" "zst zstd" "gz gzip"; do
    if ! "${packed#* }" -dc <"$out/stage.${packed% *}.new" | cmp -s - "$built/anemos-stage"; then
        echo "build-remote: stage.${packed% *} does not unpack to what was packed" >&2
        exit 1
    fi
done
for agent in agent agent-imgbuild; do
    # With the flags of `make build`, which has built most of it.
    env -u RUSTFLAGS cargo run --locked --quiet --release -p anemos-deploy --example patch \
        --config "target.$target.rustflags=[${remap#, }]" -- \
        "$built/anemos-stage" "$built/anemos-$agent" "$out/$agent.patch.new"
done
for file in stage.x86.xz stage.xz stage.zst stage.gz agent.patch agent-imgbuild.patch; do
    if cmp -s "$out/$file" "$out/$file.new"; then rm "$out/$file.new"; else mv "$out/$file.new" "$out/$file"; fi
done
wc -c "$out"/stage.* "$out"/agent*.patch
