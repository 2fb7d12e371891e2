# anemos: `make help` says what there is.

TARGET  := x86_64-unknown-linux-gnu
REMOTE  := target/remote
BUILD   := $(shell git describe --always --dirty 2>/dev/null || echo source)
PAYLOAD ?= examples/debian
MANY_HOSTS ?= 500
MANY_PARALLEL ?= 16

help: ## this text
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: remote ## one self-contained executable: target/release/anemos
	ANEMOS_STAGE=$(CURDIR)/$(REMOTE)/stage ANEMOS_AGENT=$(CURDIR)/$(REMOTE)/agent ANEMOS_BUILD=$(BUILD) \
		deploy/build.sh $(TARGET)

dist: build ## a Debian package and an archive, with checksums: target/dist
	deploy/dist.sh

man: rust ## manual pages of all commands: target/man
	rm -rf target/man && mkdir -p target/man
	cargo run --locked -q -p anemos --bin anemos -- man-pages target/man

remote: rust ## stage and agent: static, small, compressed for the wire
	deploy/build-remote.sh $(TARGET) $(REMOTE)

tools: ## what tests and demo need from the distribution
	@tests/install-tools.sh

demo: rust tools ## a lab machine, redeployed before your eyes (PAYLOAD=examples/hello for the short one)
	tests/demo.sh $(PAYLOAD)

# Unoptimised, without stage and agent inside: there in a third of the time. tests/demo.sh makes it beside the lab.
build-demo: remote
	cargo build --locked --workspace --bin anemos

test: rust tools build unit hostile ## everything: unit, integration, end to end
	tests/e2e.sh

unit: rust ## all tests that need no machine: no network, and no root (what needs root says that it is skipped)
	cargo test --locked --workspace

hostile: rust build ## hosts that flood the controller, and what memory that takes
	ANEMOS_BIN=$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/anemos cargo test --locked --workspace --test hostile

many: rust ## five hundred hosts with real agents by one daemon, and what memory that takes (MANY_HOSTS=50 MANY_PARALLEL=50)
	cargo build --locked -p anemos -p anemos-agent
	MANY_HOSTS=$(MANY_HOSTS) MANY_PARALLEL=$(MANY_PARALLEL) cargo test --locked -p anemos --test many -- --ignored --nocapture

browser: rust tools ## the page of `anemos serve --web` in a real browser, for people with and without eyes; SCREENSHOT=docs/web.png
	tests/browser.sh $(SCREENSHOT)

e2e: rust tools build ## scenarios whose names contain T: make e2e T=machines::bios
	tests/e2e.sh $(T)

faults: rust tools build ## the fault matrix, or a part of it: make faults PART=1/4, make faults PART=reset
	tests/table.sh faults $(PART)

reach: rust tools build ## hosts of other kinds, by each way in, or a part of that: make reach PART=sudo
	tests/table.sh reach $(PART)

bench: rust tools build ## measured in the lab, as ratios of one run
	tests/bench.sh
	tests/bench.sh --images

# Without SECONDS in its environment, where it would be bash's own.
fuzz: rust ## parsers of foreign bytes, fed with bytes made up: make fuzz T=frames RUNS=1000000 JOBS=2, make fuzz SECONDS=300
	env -u SECONDS tests/fuzz.sh $(if $(RUNS),--runs $(RUNS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(JOBS),--jobs $(JOBS)) $(T)

check: ## formatting, lints, licences
	cargo fmt --check
	cd fuzz && cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --test e2e -- -D warnings
	cargo deny check licenses bans sources
	cargo deny --manifest-path fuzz/Cargo.toml check licenses bans sources
	@if cargo deny fetch >/dev/null 2>&1; then cargo deny check advisories; else echo "advisories: skipped, their database can't be reached from here"; fi

# Said before anything is installed or built.
rust:
	@want=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) have=$$(rustc --version 2>/dev/null | cut -d ' ' -f 2); \
	printf '%s\n' "$$want" "$${have:-0}" | sort -CV && command -v cargo >/dev/null || \
		{ echo "Rust $$want or later is missing (here: $${have:-none}): rustup installs it" >&2; exit 1; }

clean: ## what the lab and cargo made
	cargo clean
	rm -rf .lab

.PHONY: help build dist man build-demo remote rust tools demo test unit hostile many browser e2e faults reach bench fuzz check clean
