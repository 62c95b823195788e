#!/bin/sh
# Moves the branch to the commit that was tested, if nobody has moved it meanwhile. Usage: merge.sh REPOSITORY BRANCH
set -eu
repository=$1 branch=$2
commit=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["result"]["commit"])' "$HIVEWARD_INPUTS")
if [ "$(git -C "$repository" symbolic-ref --quiet --short HEAD || true)" = "$branch" ]; then
    git -C "$repository" merge --quiet --ff-only "$commit" >&2
else
    git -C "$repository" fetch --quiet . "$commit:refs/heads/$branch" >&2
fi
printf '{"hiveward":"result","value":{"%s":"%s"}}\n' "$branch" "$commit"
