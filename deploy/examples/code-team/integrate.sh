#!/bin/sh
# Puts the branches of all coders together in a worktree, in their order, and runs the tests there. Changes no branch.
# Usage: integrate.sh REPOSITORY BRANCH TEST
set -eu
repository=$1 branch=$2 tests=$3
tree=$HIVEWARD_WORKDIR/tree
export GIT_AUTHOR_NAME=hiveward GIT_AUTHOR_EMAIL=hiveward@localhost GIT_COMMITTER_NAME=hiveward GIT_COMMITTER_EMAIL=hiveward@localhost
git -C "$repository" worktree add --quiet --detach "$tree" "$branch"
trap 'git -C "$repository" worktree remove --force "$tree"' EXIT
branches=$(python3 - "$HIVEWARD_INPUTS" <<'PYTHON'
import json, sys

def branches(value):
    """Every result of a coder, however deep."""
    if isinstance(value, dict):
        if isinstance(value.get("branch"), str) and value.get("files"):
            yield value["branch"]
        for inner in value.values():
            yield from branches(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from branches(inner)

given = json.load(open(sys.argv[1]))
for place in given:
    result = place.get("result")
    if isinstance(result, dict) and set(result) == {"path"}:
        place["result"] = json.load(open(result["path"]))
print("\n".join(dict.fromkeys(branches(given))))
PYTHON
)
[ -n "$branches" ] || { echo "there is no branch to put together" >&2; exit 1; }
for one in $branches; do
    git -C "$tree" merge --quiet --no-ff --no-edit "$one" >&2
done
(cd "$tree" && sh -c "$tests") >&2
# Kept until it is merged, or somebody looks.
git -C "$tree" update-ref "refs/hiveward/integrated/$HIVEWARD_TASK" HEAD
printf '{"hiveward":"result","value":{"commit":"%s"}}\n' "$(git -C "$tree" rev-parse HEAD)"
