#!/usr/bin/env bash
# Starts one node with everything embedded, applies the example to this repository, and stays until it is interrupted.
#
# usage: run-example.sh HIVEWARD DATA_DIR
set -euo pipefail
hiveward=$1
data=$2
cd "$(dirname "$0")/.."

"$hiveward" dev --data-dir "$data" &
node=$!
trap 'kill -TERM "$node" 2>/dev/null || true; wait "$node" || true' EXIT INT TERM

until curl --silent --fail http://127.0.0.1:7700/readyz >/dev/null 2>&1; do
    kill -0 "$node" 2>/dev/null || { wait "$node"; exit 1; }
    sleep 0.1
done
echo
echo "applying deploy/examples/repo-audit.yaml to this repository"
"$hiveward" apply -f deploy/examples/repo-audit.yaml --data-dir "$data" --wait
report=$("$hiveward" task list --data-dir "$data" -o json --title report | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')
"$hiveward" task show "$report" --data-dir "$data"
echo
echo "the node runs on; stop it with Ctrl-C"
wait "$node"
