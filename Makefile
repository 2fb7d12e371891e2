# anemos: `make help` says what there is.

TARGET  := x86_64-unknown-linux-gnu
REMOTE  := target/remote
BUILD   := $(shell git describe --always --dirty 2>/dev/null || echo source)
PAYLOAD ?= examples/debian

help: ## this text
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: remote ## one self-contained executable: target/release/anemos
	ANEMOS_STAGE=$(CURDIR)/$(REMOTE)/stage ANEMOS_AGENT_ZST=$(CURDIR)/$(REMOTE)/agent.zst ANEMOS_BUILD=$(BUILD) \
		cargo build --locked --release -p anemos -p makeimg

remote: ## stage and agent: static, small, compressed for the wire
	deploy/build-remote.sh $(TARGET) $(REMOTE)

tools: ## what tests and demo need from the distribution
	@tests/install-tools.sh

demo: tools build ## a lab machine, redeployed before your eyes (PAYLOAD=examples/hello for the short one)
	tests/demo.sh $(PAYLOAD)

test: tools build ## everything: unit, integration, end to end
	cargo test --locked --workspace
	tests/e2e.sh

bench: tools build ## measured in the lab, as ratios of one run
	tests/bench.sh

check: ## formatting, lints, licences
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p anemos-tests --test e2e -- -D warnings
	cargo deny check licenses bans sources
	@if cargo deny fetch >/dev/null 2>&1; then cargo deny check advisories; else echo "advisories: skipped, their database can't be reached from here"; fi

clean: ## what the lab and cargo made
	cargo clean
	rm -rf .lab

.PHONY: help build remote tools demo test bench check clean
