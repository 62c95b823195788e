#!/usr/bin/env bash
# Plants each bug of this folder in a copy of the repository, runs the test that must go red, and fails if one stays green.
# Usage: run.sh [NAME …]; a name is that of a patch without its ending. Without any all are planted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=$(cd "$root" && cargo metadata --format-version 1 --no-deps | python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')
copy=$(mktemp -d)
# The copy is always at a path of its own, and its artefacts beside those of the tree: neither disturbs the other.
export CARGO_TARGET_DIR="$target/planted"
# Nobody reads a backtrace of these, and each program is linked faster without.
export CARGO_PROFILE_DEV_DEBUG=none
trap 'git -C "$root" worktree remove --force "$copy/tree" >/dev/null 2>&1 || true; rm -rf "$copy"' EXIT
git -C "$root" worktree add --quiet --detach "$copy/tree" HEAD
cd "$copy/tree"
mkdir -p dashboard/dist
[ -d "$root/dashboard/dist" ] && cp -r "$root/dashboard/dist/." dashboard/dist/

# Which of a package's test programs has a test: only that one is built, since each takes a while to link.
program_of() {
    local dir=${1#hiveward-} file rest
    case $dir in
        kernel | catalogue | models | machines | work | agents) dir=actors/$dir ;;
        cli) dir=gateway/cli ;;
    esac
    file=$(grep -rlE "fn $2\\b" "$dir" --include='*.rs' | head -n 1) || true
    case $file in
        "$dir"/src/*) echo --lib ;;
        "$dir"/tests/* | tests/*)
            rest=${file#"$dir"/}
            rest=${rest#tests/}
            rest=${rest%%/*}
            echo "--test ${rest%.rs}"
            ;;
    esac
}

# Those of one file follow on each other: taking back one and planting the next builds the same crates anew.
in_order() {
    grep -Hm 1 '^+++ b/' "$here"/*.patch | sed 's/:+++ b\//\t/' | sort -k 2 | cut -f 1
}

caught=0 survived=() broken=()
for patch in $(in_order); do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    read -r package test < <(sed -n 's/^Test: //p' "$patch" | head -n 1)
    if [ -z "${test:-}" ] || ! git apply "$patch"; then
        echo "BROKEN    $name: it names no test, or does not apply any more"
        broken+=("$name")
        git checkout --quiet . && git clean -fdq -e dashboard/dist
        continue
    fi
    log="$copy/$name.log"
    read -ra program < <(program_of "$package" "$test") || true
    # What these start is the program itself: built before, or its building would count as the test's time.
    if [ "$package" = hiveward-tests ] && ! cargo build --quiet --bin hiveward >"$log" 2>&1; then
        echo "BROKEN    $name: the program does not compile"; tail -n 20 "$log"
        broken+=("$name")
    elif ! cargo nextest run -p "$package" "${program[@]}" --no-run >"$log" 2>&1; then
        echo "BROKEN    $name: it does not compile"; tail -n 20 "$log"
        broken+=("$name")
    elif cargo nextest run -p "$package" "${program[@]}" --profile "${PLANTED_PROFILE:-planted}" --no-tests fail -E "test(/(^|::)$test\$/)" >"$log" 2>&1; then
        echo "SURVIVED  $name: $test stays green"
        survived+=("$name")
    elif grep -qE '^ +(FAIL|TIMEOUT|SIGABRT|ABORT)' "$log"; then
        echo "caught    $name by $test"
        caught=$((caught + 1))
    else
        echo "BROKEN    $name: $test was not run"; tail -n 20 "$log"
        broken+=("$name")
    fi
    git checkout --quiet . && git clean -fdq -e dashboard/dist
done
echo "$caught caught, ${#survived[@]} survived, ${#broken[@]} broken"
[ ${#survived[@]} -eq 0 ] && [ ${#broken[@]} -eq 0 ]
