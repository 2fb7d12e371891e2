#!/bin/bash
# Packs what `make build` has built: a Debian package, an archive for other systems, and SHA256SUMS, in target/dist. The same
# commit and Rust make the same bytes, wherever and whenever: times are the commit's (reproducible-builds.org).
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "dist: $*" >&2; exit 1; }
for tool in dpkg-deb:dpkg readelf:binutils strip:binutils git:git tar:tar gzip:gzip; do
    command -v "${tool%:*}" >/dev/null || fail "${tool%:*} is missing: apt-get install ${tool#*:}"
done
umask 022
target=${CARGO_TARGET_DIR:-$PWD/target} arch=amd64
built=$target/release out=$target/dist
[ -x "$built/anemos" ] || fail "there is no $built/anemos: run \`make dist\`"
git=(git -c "safe.directory=*")
SOURCE_DATE_EPOCH=$("${git[@]}" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# A commit that is no release comes before it, and after the commits before.
if [ "$("${git[@]}" describe --tags --exact-match 2>/dev/null || :)" != "v$version" ]; then
    version=$version~$("${git[@]}" rev-list --count HEAD).$("${git[@]}" rev-parse --short=10 HEAD)
fi
[ -z "$("${git[@]}" status --porcelain --untracked-files=no)" ] || version+=+changed

rm -rf "$out"
root=$out/root name=anemos-$version-x86_64-linux
doc=$root/usr/share/doc/anemos
mkdir -p "$root"/usr/{bin,share/{man/man1,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}} "$doc"
for command in anemos makeimg; do
    strip --strip-all -o "$root/usr/bin/$command" "$built/$command"
done
anemos=$root/usr/bin/anemos
"$anemos" man-pages "$root/usr/share/man/man1"
gzip -9 -n "$root"/usr/share/man/man1/*
"$anemos" completions bash >"$root/usr/share/bash-completion/completions/anemos"
"$anemos" completions zsh >"$root/usr/share/zsh/vendor-completions/_anemos"
"$anemos" completions fish >"$root/usr/share/fish/vendor_completions.d/anemos.fish"
cp -r README.md LICENSE-APACHE LICENSE-MIT docs examples "$doc/"
find "$doc" -type f -perm -u+x -exec chmod 755 {} +
find "$doc" -type f ! -perm -u+x -exec chmod 644 {} +
find "$doc" -type d -exec chmod 755 {} +
{
    cat <<'END'
Anemos is licensed under the Apache License 2.0 or the MIT license, at your option: see LICENSE-APACHE and LICENSE-MIT here.
The commands, and the programs inside of them that hosts run, are linked with what follows.
END
    cargo metadata --locked --offline --format-version 1 --filter-platform x86_64-unknown-linux-gnu |
        cargo run --locked --quiet -p anemos-deploy --example notices -- anemos makeimg anemos-deploy anemos-agent
} >"$doc/copyright"

tar_as_committed() { tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner "$@"; }
tar_as_committed --directory "$out" --transform "s,^root/usr,$name,;s,^root,$name," root/usr |
    gzip -9 -n >"$out/$name.tar.gz"

# What they load is of two packages, the first in at least the version that has all symbols.
loaded=$(readelf -dW "$root"/usr/bin/* | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u | tr '\n' ' ')
for library in $loaded; do
    case $library in
        libc.so.6 | libm.so.6 | ld-linux-x86-64.so.2 | libgcc_s.so.1) ;;
        *) fail "a command loads $library: of which package is it?" ;;
    esac
done
libc=$(readelf -VW "$root"/usr/bin/* | grep -o 'Name: GLIBC_[0-9.]*' | sed 's/.*_//' | sort -uV | tail -n 1)
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: anemos
Version: $version
Architecture: $arch
Maintainer: the Anemos developers <anemos@invalid>
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, openssh-client
Suggests: mmdebstrap | debootstrap, qemu-system-x86, mtools, dosfstools
Section: admin
Priority: optional
Description: turns machines that SSH reaches into what a directory describes
 A controller on a workstation boots each host into a system in RAM, from
 which the host builds its own new system: by a script for any distribution,
 or from an IMGBUILD. Logs and progress are seen live, and the host sends for
 its packages itself, so that little crosses the line to it.
END
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/anemos_${version}_$arch.deb" >/dev/null
rm -rf "$root"
(cd "$out" && sha256sum -- *.deb *.tar.gz >SHA256SUMS)
cat "$out/SHA256SUMS"
