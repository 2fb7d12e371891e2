#!/bin/bash
# Tries what a newcomer does first, on Debian 12 systems that have nothing yet:
#   - tests/install-tools.sh, twice, on a bare one, on one whose qemu-utils is newer than the distribution's and
#     excludes its QEMU, and on one where a user has sudo: all is there after the first, and the second says nothing;
#   - the same where that qemu-utils is held: what can't be had is named within two minutes;
#   - on the bare one, with this machine's Rust and crates and nothing else of it: `make demo` with examples/hello, and
#     then what is named here, which is `make unit` unless something is: `tests/pristine.sh test` runs all tests there, and
#     `tests/pristine.sh "e2e T=ways"` some;
#   - `make dist` there, twice, and the package on a system that has neither sources nor Rust: what README begins with.
# What is built already is not built again, so this shows most on a checkout without target/. Nothing of this machine is
# changed but target/ and .lab: the systems are directories, seen in mount and PID namespaces that end with this script.
# It can't show a package manager under a running systemd, nor what another mirror lacks.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
fail() { echo "pristine: $*" >&2; exit 1; }

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for tool in mmdebstrap:mmdebstrap dpkg-deb:dpkg apt-get:apt unshare:util-linux git:git rustc:Rust; do
    type -P "${tool%:*}" >/dev/null || fail "${tool%:*} is missing here: tests/install-tools.sh installs all but Rust"
done
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "making a root file system needs root: run this as root, or install sudo"
    kept=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,ANEMOS_LAB,TMPDIR
    exec sudo --preserve-env=$kept "$PWD/tests/pristine.sh" "$@"
fi
if [ -z "${PRISTINE_WORK:-}" ]; then
    PRISTINE_WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/anemos-pristine.XXXXXX")
    export PRISTINE_WORK
    # Processes and mounts end with their namespaces, so nothing else is below the directory by then.
    trap 'rm -rf --one-file-system "$PRISTINE_WORK"' EXIT
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$PWD/tests/pristine.sh" "$@"
    exit
fi

# From here on in namespaces, as their first process.
work=$PRISTINE_WORK
say() { echo "pristine: $* (after $SECONDS s)"; }

# This machine's sources of Debian 12, or Debian 12 where it has another release. No address is written anywhere else.
sources() {
    local uri release component
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sort -u >"$work/targets"
    while read -r uri release component; do
        case $component:$release in main:bookworm*) echo "deb $uri $release main" ;; esac
    done <"$work/targets" >"$work/sources"
    [ -s "$work/sources" ] || while read -r uri release component; do
        case $component:$release in
            main:trixie | main:forky | main:sid | main:stable | main:oldstable | main:testing)
                echo "deb $uri bookworm main"
                ;;
        esac
    done <"$work/targets" | head -n 1 >"$work/sources"
    [ -s "$work/sources" ] || fail "this machine's apt sources name no Debian archive: see \`apt-get indextargets\`"
}

# How this machine's apt reaches them: proxies, also those that a program of this machine finds, and how strict it is.
settings() {
    local uri proxy
    apt-config dump | grep -E '^Acquire::(https?::|Check-|Max-|Retries|ForceIPv)' || true
    while read -r _ uri _; do
        proxy=$(/usr/lib/apt/apt-helper auto-detect-proxy "$uri" 2>/dev/null |
            sed -n "s/^Using proxy '\([^']*\)'.*/\1/p")
        [ -z "$proxy" ] || echo "Acquire::${uri%%:*}::Proxy::$(cut -d/ -f3 <<<"$uri" | cut -d: -f1) \"$proxy\";"
    done <"$work/sources" | sort -u
}

bootstrap() {
    sources
    settings >"$work/settings"
    mmdebstrap --quiet --mode=root --variant=minbase --include=sudo --aptopt="$work/settings" \
        bookworm "$work/bare" "$work/sources" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "no Debian 12 could be made"; }
    cp "$work/settings" "$work/bare/etc/apt/apt.conf.d/99this-machine"
    cp --remove-destination -L /etc/resolv.conf /etc/hosts "$work/bare/etc/"
    # Services of a directory must not start on this machine.
    # Nor need it survive a power cut.
    echo force-unsafe-io >"$work/bare/etc/dpkg/dpkg.cfg.d/this-machine"
    printf '#!/bin/sh\nexit 101\n' >"$work/bare/usr/sbin/policy-rc.d"
    chmod 755 "$work/bare/usr/sbin/policy-rc.d"
}

# within ROOT COMMAND...: runs it there as root or $user. The directories in $seen and $shared are at the same place
# there as here: those to read, these to write.
user=root seen=() shared=()
within() {
    local root=$1
    shift
    unshare --mount --propagation private bash -euc '
        root=$1 user=$2 seen=$3 shared=$4
        shift 4
        path=/usr/local/bin:/usr/bin:/bin
        [ "$user" != root ] || path=/usr/local/sbin:/usr/sbin:/sbin:$path
        # Builds take namespaces of their own, for which the root must be a mount.
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        for place in /dev /sys $shared $seen; do
            mkdir -p "$root$place"
            mount --rbind "$place" "$root$place"
        done
        for place in $seen; do mount -o remount,bind,ro "$root$place"; done
        exec chroot "$root" setpriv --reuid "$user" --regid "$user" --init-groups env -i TERM=dumb LC_ALL=C.UTF-8 \
            HOME="$(chroot "$root" getent passwd "$user" | cut -d: -f6)" PATH="$path" "$@"
    ' bash "$root" "$user" "${seen[*]}" "${shared[*]}" "$@"
}

# The clone that a newcomer has, with what is not committed here yet.
clone() {
    git clone --quiet --no-hardlinks "file://$PWD" "$work/bare/srv/anemos"
    git diff --binary HEAD >"$work/changes"
    [ ! -s "$work/changes" ] || git -C "$work/bare/srv/anemos" apply "$work/changes"
    cp -p tests/install-tools.sh "$work/bare/srv/anemos/tests/"
}

tools() { within "$1" /srv/anemos/tests/install-tools.sh; }

# complete ROOT WHAT: the first run leaves all tools, the second finds nothing to do.
complete() {
    local root=$1 what=$2 log=$1.log said
    tools "$root" >"$log" 2>&1 || { tail -n 30 "$log" >&2; fail "$what: the tools can't be installed"; }
    # Each starts, so it is not one that only has the name.
    within "$root" sh -ec 'qemu-img --version; qemu-system-x86_64 --version; mmdebstrap --version' >"$log" 2>&1 ||
        { cat "$log" >&2; fail "$what: a tool does not start"; }
    said=$(tools "$root" 2>&1) || fail "$what: the second run failed: $said"
    [ -z "$said" ] || fail "$what: the second run found something to do: $said"
    say "$what: the tools are complete, and the second run was silent"
}

# newer_qemu_utils ROOT: what a machine with backports has. As the real one it excludes the distribution's
# qemu-system-common.
newer_qemu_utils() {
    local archive=$1/srv/newer package=$work/qemu-utils
    mkdir -p "$archive" "$package/DEBIAN" "$package/usr/bin"
    printf '%s\n' 'Package: qemu-utils' 'Version: 1:99.0' 'Architecture: amd64' 'Maintainer: nobody <nobody@invalid>' \
        'Breaks: qemu-system-common (<< 1:99)' 'Replaces: qemu-system-common (<< 1:99)' \
        'Description: stands for a newer one' >"$package/DEBIAN/control"
    printf '#!/bin/sh\nexit 1\n' >"$package/usr/bin/qemu-img"
    chmod 755 "$package/usr/bin/qemu-img"
    dpkg-deb --root-owner-group --build "$package" "$archive/qemu-utils.deb" >/dev/null
    {
        cat "$package/DEBIAN/control"
        echo "Filename: ./qemu-utils.deb"
        echo "Size: $(stat -c %s "$archive/qemu-utils.deb")"
        echo "SHA256: $(sha256sum "$archive/qemu-utils.deb" | cut -d' ' -f1)"
    } >"$archive/Packages"
    within "$1" dpkg -i /srv/newer/qemu-utils.deb >/dev/null
}

say "making a bare Debian 12"
bootstrap
clone
cp -a "$work/bare" "$work/newer"
cp -a "$work/bare" "$work/user"
rm -rf "$work/user/srv/anemos"
newer_qemu_utils "$work/newer"

cp -a "$work/newer" "$work/held"
within "$work/held" apt-mark hold qemu-utils >/dev/null
start=$SECONDS
if tools "$work/held" >"$work/log" 2>&1; then fail "a held qemu-utils was replaced"; fi
grep -q "^install-tools: apt can't install qemu-system-x86:" "$work/log" ||
    { tail -n 20 "$work/log" >&2; fail "what can't be had is not named"; }
[ $((SECONDS - start)) -lt 120 ] || fail "to say what can't be had took $((SECONDS - start)) s"
rm -rf "$work/held"
say "a held qemu-utils: what can't be had is named"

# apt removes a package that stands in the way, but not one that it takes for the best there is.
cp -a "$work/newer" "$work/sudo"
echo "deb [trusted=yes] file:/srv/newer ./" >"$work/sudo/etc/apt/sources.list.d/newer.list"
within "$work/sudo" useradd --create-home --user-group newcomer
echo 'newcomer ALL=(ALL) NOPASSWD: ALL' >"$work/sudo/etc/sudoers.d/newcomer"

# Beside each other: package managers wait more than they work.
pids=()
complete "$work/newer" "a newer qemu-utils" & pids+=($!)
(user=newcomer; complete "$work/sudo" "a user with sudo, and a newer qemu-utils that apt prefers") & pids+=($!)
complete "$work/bare" "a bare Debian" & pids+=($!)
for pid in "${pids[@]}"; do wait "$pid" || fail "see above"; done
rm -rf "$work/newer" "$work/sudo"

cargo fetch --locked --quiet
rust=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
seen=("$rust" "$cargo_home/registry")
mkdir -p "$work/bare$cargo_home"
[ ! -e "$cargo_home/config.toml" ] || cp "$cargo_home/config.toml" "$work/bare$cargo_home/"
# rusty COMMAND: a shell command on the bare one, with Rust.
rusty() {
    # A checkout may be another user's; git is told that this is meant.
    local name options=(CARGO_HOME="$cargo_home" CARGO_NET_OFFLINE=true
        GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*')
    for name in CARGO_TARGET_DIR CARGO_INCREMENTAL ANEMOS_LAB RUSTFLAGS; do [ -z "${!name:-}" ] || options+=("$name=${!name}"); done
    within "$work/bare" env "${options[@]}" bash -euo pipefail -c "PATH=$rust/bin:\$PATH; $1"
}
attempt() {
    local what=$1
    rusty "$2" >"$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; fail "$what: not with what make tools installs"; }
    say "$what"
}

attempt "a fresh clone: its help, its name, and all tools are there" \
    "cd /srv/anemos; make help; git describe --always; test -z \"\$(make tools)\""

shared=("$PWD" "$(git rev-parse --path-format=absolute --git-common-dir)")
for place in "${CARGO_TARGET_DIR:-}" "${ANEMOS_LAB:-}"; do [ -z "$place" ] || shared+=("$place"); done
attempt "this checkout: the demo" "cd '$PWD'; make demo PAYLOAD=examples/hello </dev/null"
[ $# -gt 0 ] || set -- unit
for wanted in "$@"; do
    # Words are split: a target may have variables.
    rusty "cd '$PWD'; make $wanted </dev/null" || fail "make $wanted: not with what make tools installs"
    say "this checkout: make $wanted"
done

attempt "this checkout: the same package twice" "cd '$PWD'; make dist; target=\${CARGO_TARGET_DIR:-target}; \
    cp \"\$target/dist/SHA256SUMS\" /var/tmp/; deploy/dist.sh; cmp \"\$target/dist/SHA256SUMS\" /var/tmp/SHA256SUMS; \
    rm -rf /var/tmp/dist; cp -r \"\$target/dist\" /var/tmp/; cd /var/tmp/dist; sha256sum --check --strict SHA256SUMS"
cp -r "$work/bare/var/tmp/dist" "$work/user/srv/"
# It speaks to nobody: 192.0.2.10 of the example is nobody's address (RFC 5737), and here there is no network at all.
within "$work/user" sh -euxc '
    apt-get update
    apt-get install --yes --no-install-recommends /srv/dist/anemos_*.deb
    anemos --version
    for example in hello debian imgbuild-debian; do anemos validate "/usr/share/doc/anemos/examples/$example/hosts.toml"; done
    makeimg check -C /usr/share/doc/anemos/examples/imgbuild-debian/payload
    gzip -t /usr/share/man/man1/anemos-up.1.gz
    bash -n /usr/share/bash-completion/completions/anemos
    mkdir /root/try && cd /root/try && cp -r /usr/share/doc/anemos/examples/hello/* .
    status=0
    unshare --net anemos up --yes hosts.toml </dev/null >said 2>&1 || status=$?
    cat said
    test "$status" = 4 && grep -q "hello connect: UNTOUCHED" said
    mkdir /root/other && tar -C /root/other --strip-components 1 -xf /srv/dist/anemos-*.tar.gz
    cmp /root/other/bin/anemos /usr/bin/anemos
    apt-get remove --yes anemos
    test ! -e /usr/bin/anemos
' >"$work/log" 2>&1 || { tail -n 60 "$work/log" >&2; fail "the package: not on a system without sources"; }
say "the package, on a system without sources: installed, tried, removed"
