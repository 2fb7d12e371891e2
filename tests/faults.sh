#!/bin/bash
# The fault matrix: prepares the lab, then tries the cells that are not tried yet on this commit; $1 says which part.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
build_then_root "$@"
"$lab" setup --all
ANEMOS_FAULTS=${1:-} exec "$e2e"
