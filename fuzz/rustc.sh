#!/bin/sh
# Cargo calls it in place of rustc (RUSTC_WRAPPER), with rustc and its arguments. It has counters put only into what this
# project wrote and into the parsers that it hands foreign bytes to: libFuzzer looks at every counter of the executable
# after each input, so counters in what no input reaches cost more than what is tried.
case $CARGO_PKG_NAME in
    anemos | anemos-* | makeimg) ;;
    bincode | cpio | tar | toml | toml_* | winnow | serde_json | httparse | ssh-key | ssh-encoding) ;;
    *) exec "$@" ;;
esac
# Build scripts and macros run here, without libFuzzer.
case " $* " in
    *" --target "*) ;;
    *) exec "$@" ;;
esac
cover=sanitizer-coverage
exec "$@" -Cpasses=sancov-module -Cllvm-args=-$cover-level=4 -Cllvm-args=-$cover-inline-8bit-counters \
    -Cllvm-args=-$cover-pc-table -Cllvm-args=-$cover-trace-compares
