#!/bin/bash
# The end-to-end tests: prepares the lab (minutes the first time), then runs the scenarios whose names contain an argument.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --quiet -p anemos-tests --bin anemos-lab -- setup --all
exec cargo test --locked --quiet -p anemos-tests --test e2e -- "$@"
