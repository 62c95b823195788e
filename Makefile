# Everything a newcomer needs; each target installs what it lacks, says what, and asks nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
DATA_DIR ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/hiveward/dev
# Where cargo builds; asked only by the targets that need it.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')

# Hosts in namespaces want root; who is not is told what was left out.
WITHOUT_LAB = $(if $(filter-out 0,$(shell id -u)),-E 'not binary(vm_lab)' $(warning SKIPPED: tests on real hosts and guests run as root only))

# A new clone is built once: what would make a second build faster takes gigabytes and is of no use.
ifeq ($(CI),true)
export CARGO_INCREMENTAL = 0
endif

.PHONY: run build dashboard dashboard-dev tools lint test test-dashboard dashboard-lint dashboard-browser test-vms screenshots test-cluster test-limits test-versions test-long test-how-to test-planted bench bench-dashboard deny

run: build ## Builds the release binary, starts one node with everything embedded, and applies the example.
	deploy/run-example.sh "$(TARGET)/ship/hiveward" "$(DATA_DIR)"

build: tools dashboard
	$(CARGO) build --release --bin hiveward
	deploy/strip.sh "$(TARGET)/release/hiveward" "$(TARGET)/ship"

dashboard: tools ## Builds the embedded pages.
	deploy/build-dashboard.sh

dashboard-dev: tools ## The dashboard with hot reload on http://127.0.0.1:7780/ui/, against the node at HIVEWARD_URL.
	cd dashboard && { [ -d node_modules ] || npm ci --no-audit --no-fund; } && npm run dev

tools: ## Installs what is missing: a C compiler, git, node, npm, cargo-nextest.
	deploy/install-tools.sh

test: dashboard ## Every test that fits in CI.
	deploy/install-tools.sh test
	deploy/install-tools.sh vms
	$(CARGO) fmt --all --check
	$(MAKE) dashboard-lint
	cd actors/libvirt-driver && $(CARGO) build --locked --target-dir "$(TARGET)/libvirt-driver"
	deploy/count-skipped.sh $(CARGO) nextest run --workspace $(WITHOUT_LAB)
	deploy/install-tools.sh dashboard
	$(MAKE) dashboard-browser

lint: tools ## What must be clean before a commit: format, clippy on everything. Licences: `make deny`.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

test-dashboard: dashboard ## The dashboard: lint, pictures, unit tests, and a real browser against real nodes.
	deploy/install-tools.sh dashboard
	$(CARGO) build --bin hiveward
	$(MAKE) dashboard-lint dashboard-browser

# What takes no browser, and seconds.
dashboard-lint:
	cd dashboard && { [ -d node_modules ] || npm ci --no-audit --no-fund; } && npm run lint && npm run pictures && npm run unit

# Against the binary that is built: the one of the other tests has other features, and building a second takes minutes.
dashboard-browser:
	cd dashboard && HIVEWARD_BIN="$(TARGET)/debug/hiveward" npm run browser

screenshots: dashboard ## Renews docs/screenshots, which the browser tests make.
	deploy/install-tools.sh dashboard
	$(CARGO) build --bin hiveward
	cd dashboard && { [ -d node_modules ] || npm ci --no-audit --no-fund; } && HIVEWARD_BIN="$(TARGET)/debug/hiveward" npm run screenshots

test-cluster: ## Clusters of real processes under faults: kills, freezes, partitions, full disks, drains, intruders.
	deploy/install-tools.sh test
	$(CARGO) build --bin hiveward
	deploy/count-skipped.sh $(CARGO) nextest run -p hiveward-tests --profile cluster

test-limits: ## Each input of each mutation, made from the schema: at its limit, one beyond, and a thousand at once.
	deploy/install-tools.sh test
	$(CARGO) build --bin hiveward
	HIVEWARD_LONG=1 deploy/count-skipped.sh $(CARGO) nextest run -p hiveward-tests --profile limits

# The version before this one, as it was last: a cluster may mix a version with the one before it, and no older ones.
BEFORE ?= f8376f5

test-versions: ## A rolling upgrade from the version before, and back: builds it first, from this repository.
	deploy/install-tools.sh test
	deploy/build-before.sh "$(BEFORE)" "$(TARGET)/before"
	$(CARGO) build --bin hiveward
	HIVEWARD_BIN_BEFORE="$(TARGET)/before/debug/hiveward" deploy/count-skipped.sh $(CARGO) nextest run -p hiveward-tests --profile cluster -E 'test(/^versions::/)'

test-vms: ## Real libvirt hosts with real QEMU guests, without KVM: life cycle, kills, live migration. As root.
	deploy/install-tools.sh vms
	$(CARGO) build --bin hiveward
	deploy/count-skipped.sh $(CARGO) nextest run -p hiveward-tests --profile vms

test-long: ## The long rounds: hundreds of kills and power cuts.
	deploy/install-tools.sh test
	$(CARGO) build --release --bin hiveward
	HIVEWARD_LONG=1 HIVEWARD_BIN="$(TARGET)/release/hiveward" deploy/count-skipped.sh $(CARGO) nextest run -p hiveward-tests --profile long

test-how-to: dashboard ## Adds a noun as the how-to says, counts the files that takes, and uses it on a node.
	deploy/install-tools.sh test
	tests/how_to/run.sh

test-planted: dashboard ## Plants each bug of tests/planted and fails if its test stays green.
	deploy/install-tools.sh test
	tests/planted/run.sh

bench: tools ## Every figure, with what it compares to; JSON in target/bench.
	$(CARGO) bench -p hiveward-benches

bench-dashboard: build ## How smooth the page is under load: frames, long tasks, memory; five minutes per screen.
	deploy/install-tools.sh dashboard
	cd dashboard && HIVEWARD_BIN="$(TARGET)/release/hiveward" node tests/load.mjs 300

deny: ## Licences, bans and duplicates of all dependencies, the libvirt driver's as well.
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources
	$(CARGO) deny --manifest-path actors/libvirt-driver/Cargo.toml --config deny.toml check bans licenses sources
