#!/bin/sh
# Prints rustc's flags, as items of a TOML list, that leave of the places of crates' sources on this machine only the crate
# and the file: panics name them, where they say nothing, and two machines are to build the same.
set -eu
cd "$(dirname "$0")/.."
# The sources are fetched first, so that the flags are the same ever after.
cargo fetch --locked --quiet --target "$1"
for sources in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    printf "%s" ", '--remap-path-prefix', '$sources/='"
done
