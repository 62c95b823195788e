#!/usr/bin/env bash
# Runs a command that runs tests, and says afterwards which of them could not do here what they are for: they end as passed,
# because a test that has begun cannot be taken back. Ends as the command did.
set -uo pipefail
HIVEWARD_SKIPPED=$(mktemp)
export HIVEWARD_SKIPPED
trap 'rm -f "$HIVEWARD_SKIPPED"' EXIT
ended=0
"$@" || ended=$?
count=$(wc -l <"$HIVEWARD_SKIPPED")
echo "$count tests were skipped$([ "$count" -eq 0 ] || echo ', which count as passed above:')"
sort "$HIVEWARD_SKIPPED" | sed 's/^/  SKIPPED /'
exit "$ended"
