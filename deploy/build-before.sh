#!/usr/bin/env bash
# Builds the program as a commit before this one has it. Usage: build-before.sh COMMIT TARGET_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify "$1^{commit}")
if [ "$(cat "$2/built" 2>/dev/null)" = "$commit" ]; then exit 0; fi
tree=$(mktemp -d)
trap 'git worktree remove --force "$tree/tree" >/dev/null 2>&1 || true; rm -rf "$tree"' EXIT
git worktree add --quiet --detach "$tree/tree" "$commit"
mkdir -p "$tree/tree/dashboard/dist"
[ -d dashboard/dist ] && cp -r dashboard/dist/. "$tree/tree/dashboard/dist/"
(cd "$tree/tree" && CARGO_TARGET_DIR="$2" cargo build --bin hiveward)
echo "$commit" >"$2/built"
