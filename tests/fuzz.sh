#!/bin/bash
# Feeds every parser of foreign bytes (fuzz/, `src/fuzz.rs` of each crate) with bytes that libFuzzer makes up. A stable
# compiler has no sanitizers, so none is used.
#
#   tests/fuzz.sh [--runs N] [--jobs N] [TARGET]...   until each target has had N inputs; goes on where it stopped, as
#                                                      long as the executable is the same
#   tests/fuzz.sh --seconds N [TARGET]...             all of them in so many seconds, building included, but for 2 s each
#   tests/fuzz.sh --record                            adds what was reached since to the table of docs/SECURITY.md
#
# What was found on the way stays in target/fuzz/run, and is what the next run begins with.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
fail() { echo "fuzz: $*" >&2; exit 1; }

runs=10000000 jobs=1 seconds= record= one= targets=()
# Making and removing files takes longer than reading memory.
files_runs=$((runs / 50))
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2 files_runs=$2; shift ;;
        --jobs) jobs=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --record) record=yes ;;
        --one) one=$2; shift ;;
        -*) fail "$1 is no option: see the beginning of tests/fuzz.sh" ;;
        *) targets+=("$1") ;;
    esac
    shift
done

triple=x86_64-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
fuzz=$target/$triple/release/anemos-fuzz
run=$target/run
table=docs/SECURITY.md

# Iterations and date of a target, if it is this executable's.
reached() {
    local code iterations date
    read -r code iterations date 2>/dev/null <"$run/reached/$1" || return 0
    [ "$code" != "$FUZZ_CODE" ] || echo "$iterations $date"
}

# Iterations of a target that are in the table already, if they are this executable's.
recorded() {
    local code iterations
    read -r code iterations _ 2>/dev/null <"$run/recorded/$1" || true
    [ "${code:-}" = "$FUZZ_CODE" ] || iterations=0
    echo "$iterations"
}

# One target until it has had so many inputs, or for so many seconds. A piece takes a minute, and is counted at its end.
one() {
    local name=$1 wanted=$2 deadline=$3 log=$run/logs/$1 begin=$SECONDS ran=0 before status executed limit most
    before=$(reached "$name" | cut -d ' ' -f 1)
    before=${before:-0}
    mkdir -p "$run/corpus/$name"
    while [ $((before + ran)) -lt "$wanted" ]; do
        limit=60 most=$((wanted - before - ran))
        # libFuzzer counts with 32 bits.
        [ "$most" -le 1000000000 ] || most=1000000000
        if [ "$deadline" != 0 ]; then
            limit=$((begin + deadline - SECONDS))
            [ "$limit" -gt 0 ] || break
        fi
        status=0
        (cd "$run" && FUZZ_TARGET=$name "$fuzz" -runs="$most" -max_total_time="$limit" -timeout=20 \
            -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="crashes/$name-" "corpus/$name" "seeds/$name") \
            >"$log" 2>&1 || status=$?
        executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        ran=$((ran + ${executed:-0}))
        if [ "$status" != 0 ]; then
            local input
            input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
            printf '%-18s %10d  CRASHED: %s\n' "$name" $((before + ran)) "${input:+target/fuzz/run/$input}"
            # The log has the input's bytes in it. They are shown in no way that a terminal takes for its own, and whole in
            # base64: what is here now may be all that is left of them.
            { grep -a -m 1 -A 1 'panicked at\|ERROR: libFuzzer' "$log" || tail -n 5 "$log"; } | cat -v | sed 's/^/    /'
            if [ -n "$input" ] && [ "$(stat -c %s "$run/$input")" -le 65536 ]; then
                echo "    in base64: $(base64 -w 0 "$run/$input")"
            fi
            echo "    again: (cd $run && FUZZ_TARGET=$name $fuzz $input)"
            return 1
        fi
        echo "$FUZZ_CODE $((before + ran)) $(date -u +%Y-%m-%d)" >"$run/reached/$name"
    done
    printf '%-18s %10d  %7d/s  no crash\n' "$name" $((before + ran)) $((ran / (SECONDS - begin > 0 ? SECONDS - begin : 1)))
}

if [ -n "$one" ]; then
    # shellcheck disable=SC2086 # name, number of inputs, seconds
    one $one
    exit
fi

for tool in cargo:Rust c++:g++ git:git sha256sum:coreutils; do
    command -v "${tool%:*}" >/dev/null || fail "${tool%:*} is missing: install ${tool#*:}"
done
# Counters as `cargo fuzz build --sanitizer none` has them, but not everywhere.
(cd fuzz && RUSTFLAGS="--cfg fuzzing" RUSTC_WRAPPER=$PWD/rustc.sh \
    cargo build --locked --release --target "$triple" --target-dir "$target")
FUZZ_CODE=$(sha256sum "$fuzz" | cut -c 1-16)
export FUZZ_CODE

mkdir -p "$run"/{corpus,crashes,logs,reached,tmp}
rm -rf "$run/seeds"
cp -r fuzz/seeds "$run/seeds"
# The targets that touch files see nothing but $run if root runs them.
TMPDIR=/tmp
[ "$(id -u)" = 0 ] || TMPDIR=$run/tmp
export TMPDIR

list=$(FUZZ_TARGET=--list "$fuzz" 2>/dev/null)
known=$(cut -d ' ' -f 2 <<<"$list" | sort)
in_table=$(sed -n '/^## Fuzzed/,/^## [^F]/s/^| `\([a-z0-9-]*\)` .*/\1/p' "$table" | sort)
[ "$known" = "$in_table" ] || fail "$table does not have these targets: $(comm -3 <(echo "$known") <(echo "$in_table") | xargs)"
[ "$known" = "$(ls fuzz/seeds)" ] || fail "targets and fuzz/seeds differ: $(comm -3 <(echo "$known") <(ls fuzz/seeds) | xargs)"

if [ -n "$record" ]; then
    # Each input is added once.
    for name in $known; do
        reached "$name" | sed "s/^/$name $(recorded "$name") /"
    done >"$run/new"
    [ -s "$run/new" ] || fail "nothing was reached with this executable"
    awk -F '|' '
        NR == FNR { split($0, word, " "); count[word[1]] = word[3] - word[2]; date[word[1]] = word[4]; next }
        { name = $2; gsub(/[ `]/, "", name) }
        NF == 6 && count[name] { printf "|%s|%s| %d | %s |\n", $2, $3, $4 + count[name], date[name]; next }
        { print }
    ' "$run/new" "$table" >"$run/table"
    cat "$run/table" >"$table"
    mkdir -p "$run/recorded"
    for name in $known; do
        cp "$run/reached/$name" "$run/recorded/$name" 2>/dev/null || true
    done
    exit
fi

for name in "${targets[@]}"; do
    grep -qx "$name" <<<"$known" || fail "there is no target $name: $(xargs <<<"$known")"
done
[ ${#targets[@]} -gt 0 ] || mapfile -t targets <<<"$known"
each=0
if [ -n "$seconds" ]; then
    each=$(((seconds - SECONDS) * jobs / ${#targets[@]}))
    [ "$each" -ge 2 ] || each=2
    # Without an end but that of the time.
    runs=9000000000000000 files_runs=$runs
fi
for name in "${targets[@]}"; do
    wanted=$runs
    ! grep -qx "files $name" <<<"$list" || wanted=$files_runs
    printf '%s\0' "$name $wanted $each"
done | xargs -0 -n 1 -P "$jobs" "$PWD/tests/fuzz.sh" --one || fail "a target crashed: its input and the command are above"
