#!/bin/bash
# Measures what the project promises, in the lab. usage: tests/bench.sh [--rounds N] [--images]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
build_then_root "$@"
"$lab" setup
exec "$lab" bench "$@"
