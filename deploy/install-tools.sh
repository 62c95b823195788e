#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks. Says what; asks nothing; does nothing if all is there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc build-essential
need cmake cmake
need git git
need python3 python3
need curl curl
need node nodejs
need npm npm
need ip iproute2
need mkfs.ext4 e2fsprogs
need losetup mount
# The tests put nodes into network namespaces (iproute2, util-linux) and cut them from each other there.
if [ "${1:-}" = "test" ]; then
    need nsenter util-linux
    # Debian has it in /usr/sbin, which is not in everybody's PATH.
    [ -x /usr/sbin/iptables ] || need iptables iptables
fi
# The dashboard's tests drive a real browser.
if [ "${1:-}" = "dashboard" ] && [ ! -x "${CHROMIUM:-/usr/bin/chromium}" ]; then missing+=(chromium); fi
# The tests move the node's clock with it.
if [ "${1:-}" = "test" ] && ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then missing+=(libfaketime); fi

if [ "${#missing[@]}" -gt 0 ]; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    echo "installing from Debian: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install the stable toolchain (1.95 or newer), then run this again" >&2
    exit 1
fi
if [ "${1:-}" = "test" ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest with cargo"
    cargo install --locked cargo-nextest
fi
