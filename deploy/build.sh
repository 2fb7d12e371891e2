#!/bin/sh
# Builds the commands, `anemos` with what ANEMOS_STAGE and ANEMOS_AGENT name inside, the same on every machine with this
# Rust. The flags go by `--config`, as in build-remote.sh.
set -eu
cd "$(dirname "$0")/.."
remap=$(deploy/remap.sh "$1")
exec env -u RUSTFLAGS cargo build --locked --release -p anemos -p makeimg \
    --config "target.$1.rustflags=[${remap#, }]"
