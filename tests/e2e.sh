#!/bin/bash
# The end-to-end tests: prepares the lab (minutes the first time), then runs the scenarios whose names contain the argument.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
build_then_root "$@"
"$lab" setup --all
exec "$e2e" "$@"
