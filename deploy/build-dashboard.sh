#!/usr/bin/env bash
# Builds the pages that the binary embeds, unless they are newer than their sources.
set -euo pipefail
cd "$(dirname "$0")/../dashboard"

built=dist/.built
if [ -f "$built" ] && [ -z "$(find . ../gateway/schema.graphql -path ./node_modules -prune -o -path ./dist -prune -o -path ./tests -prune -o -name schema.d.ts -prune -o -type f -newer "$built" -print -quit)" ]; then
    exit 0
fi
echo "building the embedded pages with npm"
npm ci --no-audit --no-fund --loglevel=error
npm run build --silent
touch "$built"
