# Everything a newcomer needs; each target installs what it lacks, says what, and asks nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
DATA_DIR ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/hiveward/dev
# Where cargo builds; asked only by the targets that need it.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')

.PHONY: run build dashboard tools test test-cluster test-long bench deny

run: build ## Builds the release binary, starts one node with everything embedded, and applies the example.
	deploy/run-example.sh "$(TARGET)/release/hiveward" "$(DATA_DIR)"

build: tools dashboard
	$(CARGO) build --release --bin hiveward

dashboard: tools ## Builds the embedded pages.
	deploy/build-dashboard.sh

tools: ## Installs what is missing: a C compiler, git, node, npm, cargo-nextest.
	deploy/install-tools.sh

test: dashboard ## Every test that fits in CI.
	deploy/install-tools.sh test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) nextest run --workspace

test-cluster: ## Clusters of real processes under faults: kills, freezes, partitions, full disks, drains, intruders.
	deploy/install-tools.sh test
	$(CARGO) build --bin hiveward
	$(CARGO) nextest run -p hiveward-tests --profile cluster

test-long: ## The long rounds: hundreds of kills and power cuts.
	deploy/install-tools.sh test
	$(CARGO) build --release --bin hiveward
	HIVEWARD_LONG=1 HIVEWARD_BIN="$(TARGET)/release/hiveward" $(CARGO) nextest run -p hiveward-tests --profile long

bench: tools ## Every figure, with what it compares to; JSON in target/bench.
	$(CARGO) bench -p hiveward-benches

deny: ## Licences, bans and duplicates of all dependencies.
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources
