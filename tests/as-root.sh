# Sourced by the scripts beside it: the lab needs root, building does not.

# Builds the lab's command, and leaves its name in $lab.
build_lab() {
    # With the features that all of the workspace needs, as all other builds have them: so nothing is built twice.
    cargo build --locked --quiet --workspace --bin anemos-lab
    lab=${CARGO_TARGET_DIR:-$PWD/target}/debug/anemos-lab
}

# Leaves in $as_root what a command is prefixed with to run as root.
find_root() {
    as_root=()
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || { echo "tests: the lab needs root: run this as root, or install sudo" >&2; exit 1; }
    as_root=(sudo --preserve-env=CARGO_TARGET_DIR,ANEMOS_LAB,ANEMOS_LAB_BUILT,ANEMOS_LAB_KEEP,ANEMOS_LAB_WAIT,ANEMOS_E2E_LONG,ANEMOS_E2E_JOBS,ANEMOS_BIN,FIRMWARE,TERM)
}

# After `build_then_root "$@"` the script goes on as root, with $lab (anemos-lab) and $e2e (the end-to-end tests) built
# by whoever called it.
build_then_root() {
    if [ -z "${ANEMOS_LAB_BUILT:-}" ]; then
        build_lab
        # (`tee /dev/stderr` would open the file that stderr may be anew, and write over its beginning.)
        # cargo says where it put the test only in words: "  Executable … (target/debug/deps/e2e-0123456789abcdef)"
        e2e=$(cargo test --locked --workspace --test e2e --no-run 2>&1 | tee >(cat >&2) | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
        [ -x "$e2e" ] || { echo "tests: cargo built no end-to-end tests" >&2; exit 1; }
        export ANEMOS_LAB_BUILT=$e2e
        find_root
        [ ${#as_root[@]} -eq 0 ] || exec "${as_root[@]}" "$PWD/tests/$(basename "$0")" "$@"
    fi
    e2e=$ANEMOS_LAB_BUILT
    lab=${CARGO_TARGET_DIR:-$PWD/target}/debug/anemos-lab
}
