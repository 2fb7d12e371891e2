#!/bin/bash
# A table of promises, faults or reach: prepares the lab, then tries the cells that are not tried yet on this commit; $2 says
# which part.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
build_then_root "$@"
"$lab" setup --all
exec env "ANEMOS_${1^^}=${2-}" "$e2e"
