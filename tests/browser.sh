#!/bin/bash
# Tries the page of `anemos serve --web` in a real browser: tests/browser.sh [FILE], which gets a screenshot.
# The browser is the distribution's; axe-core comes from the npm registry, into target/axe.
set -euo pipefail
cd "$(dirname "$0")/.."
axe=4.14.1

needs() { printf '%s\n' "chromium chromium" "chromedriver chromium-driver" "npm npm"; }
packages=()
while read -r tool package; do
    type -P "$tool" >/dev/null || packages+=("$package")
done < <(needs)
if [ ${#packages[@]} -gt 0 ]; then
    as_root=(env DEBIAN_FRONTEND=noninteractive)
    [ "$(id -u)" = 0 ] || as_root=(sudo "${as_root[@]}")
    command -v apt-get >/dev/null || { echo "browser: install these: ${packages[*]}" >&2; exit 1; }
    echo "installing ${packages[*]}"
    "${as_root[@]}" apt-get -qy -o DPkg::Lock::Timeout=50 update || true
    "${as_root[@]}" apt-get -qy -o DPkg::Lock::Timeout=50 install --no-install-recommends "${packages[@]}" ||
        { echo "browser: apt can't install ${packages[*]}, which this needs" >&2; exit 1; }
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
export ANEMOS_AXE=$target/axe/node_modules/axe-core/axe.min.js
if ! grep -qs "axe v$axe" "$ANEMOS_AXE"; then
    mkdir -p "$target/axe"
    npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix "$target/axe" "axe-core@$axe" ||
        { echo "browser: npm can't get axe-core $axe, which checks that people without eyes can use the page" >&2; exit 1; }
fi
[ $# = 0 ] || export ANEMOS_SCREENSHOT=$1
cargo test --locked -p anemos --test browser
