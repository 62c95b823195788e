# Everything a newcomer needs; each target installs what it lacks, says what, and asks nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
DATA_DIR ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/hiveward/dev

.PHONY: run build dashboard tools test test-long bench lint deny clean-data

run: build ## Builds the release binary, starts one node with everything embedded, and applies the example.
	deploy/run-example.sh "$$($(CARGO) metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release/hiveward" "$(DATA_DIR)"

build: tools dashboard
	$(CARGO) build --release --bin hiveward

dashboard: tools ## Builds the embedded pages.
	deploy/build-dashboard.sh

tools: ## Installs what is missing: a C compiler, git, node, npm, cargo-nextest.
	deploy/install-tools.sh

test: tools dashboard ## Every test that fits in CI.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	deploy/graphql-http-audit.sh
	$(CARGO) nextest run --workspace

test-long: tools ## The long rounds: hundreds of kills and power cuts.
	HIVEWARD_LONG=1 $(CARGO) nextest run --workspace --profile long

bench: tools ## Every figure, with what it compares to; JSON in target/bench.
	$(CARGO) bench -p hiveward-benches
