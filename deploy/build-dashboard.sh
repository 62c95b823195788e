#!/usr/bin/env bash
# Builds the pages that the binary embeds, unless they are newer than their sources.
set -euo pipefail
cd "$(dirname "$0")/../dashboard"

built=dist/.built
if [ -f "$built" ] && [ -z "$(find . -path ./node_modules -prune -o -path ./dist -prune -o -type f -newer "$built" -print -quit)" ]; then
    exit 0
fi
echo "building the embedded pages with npm"
npm ci --no-audit --no-fund --loglevel=error
npm run build --silent
touch "$built"
