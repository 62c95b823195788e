#!/usr/bin/env bash
# Adds a noun as docs/how_to/add_a_noun.md says, in a copy of the repository: counts the files of the product that it touches,
# runs its test, and uses it from the command line on a node. Fails if one of these is not as the page says.
set -euo pipefail
files_max=9
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$(cd "$root" && cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
copy=$(mktemp -d)
node=
# The copy is always at a path of its own, and its artefacts beside those of the tree: neither disturbs the other.
export CARGO_TARGET_DIR="$target/how_to"
export CARGO_PROFILE_DEV_DEBUG=none
end() {
    if [ -n "$node" ]; then kill "$node" 2>/dev/null && wait "$node" || true; fi
    git -C "$root" worktree remove --force "$copy/tree" >/dev/null 2>&1 || true
    rm -rf "$copy"
}
trap end EXIT
git -C "$root" worktree add --quiet --detach "$copy/tree" HEAD
cd "$copy/tree"
mkdir -p dashboard/dist
[ -d "$root/dashboard/dist" ] && cp -r "$root/dashboard/dist/." dashboard/dist/

git apply "$here/note.patch"
git add --all
files=$(git diff --cached --name-only | grep -cvE '(^|/)tests/' || true)
echo "the noun touches $files files of the product, at most $files_max"
[ "$files" -le "$files_max" ]

cargo nextest run --workspace --test note
cargo build --quiet --workspace --bin hiveward
hiveward="$CARGO_TARGET_DIR/debug/hiveward"
"$hiveward" dev --data-dir "$copy/data" --listen 127.0.0.1:0 >"$copy/log" 2>&1 &
node=$!
url() { grep -oE 'http://127\.0\.0\.1:[0-9]+' "$copy/log" | head -n 1; }
until [ -n "$(url)" ]; do
    kill -0 "$node" || { cat "$copy/log"; exit 1; }
    sleep 0.1
done
say() { "$hiveward" "$@" --url "$(url)" --data-dir "$copy/data"; }
say note set plan 'tea at five'
[ "$(say note list -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["text"])')" = 'tea at five' ]
say event list | grep NoteSet
say note remove "$(say note list -q)"
[ -z "$(say note list -q)" ]
echo "the how-to holds"
