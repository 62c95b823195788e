#!/usr/bin/env bash
# Puts a program without its symbols into a directory, and the symbols beside it, where debuggers and the program's own
# backtraces look for them. Usage: strip.sh PROGRAM DIRECTORY
set -euo pipefail
program=$1 directory=$2 name=$(basename "$1")

mkdir -p "$directory"
if [ "$directory/$name" -nt "$program" ]; then
    exit 0
fi
fresh=$(mktemp -d "$directory/.fresh.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
objcopy --only-keep-debug "$program" "$fresh/$name.debug"
objcopy --strip-all --add-gnu-debuglink="$fresh/$name.debug" "$program" "$fresh/$name"
# A node that runs keeps the file that it was started from.
mv "$fresh/$name.debug" "$fresh/$name" "$directory/"
