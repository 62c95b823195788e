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
    # The libvirt driver is tested against libvirt's own test hypervisor, which is in its library.
    need pkg-config pkg-config
    pkg-config --exists libvirt 2>/dev/null || missing+=(libvirt-dev)
    # A real guest agent is spoken to in the place of a guest.
    [ -x /usr/sbin/qemu-ga ] || need qemu-ga qemu-guest-agent
fi
# The VM lab runs libvirt hosts with real QEMU guests, and builds its guest from Debian's packages.
if [ "${1:-}" = "vms" ]; then
    need libvirtd libvirt-daemon-system
    need virsh libvirt-clients
    need qemu-system-x86_64 qemu-system-x86
    need qemu-img qemu-utils
    need dnsmasq dnsmasq-base
    need busybox busybox-static
    need cpio cpio
    need mformat mtools
    need syslinux syslinux
    need sfdisk fdisk
    need nsenter util-linux
    need pkg-config pkg-config
    [ -e /usr/lib/syslinux/mbr/mbr.bin ] || missing+=(syslinux-common)
    pkg-config --exists libvirt 2>/dev/null || missing+=(libvirt-dev)
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
    # QEMU's packages want each other in one version: one of another suite that is there already goes with the rest.
    if [[ " ${missing[*]} " == *" qemu-"* ]]; then
        version=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
        kept=()
        for package in "${missing[@]}"; do
            case $package in qemu-*) ;; *) kept+=("$package") ;; esac
        done
        missing=("${kept[@]}" "qemu-system-x86=$version" "qemu-system-common=$version" "qemu-utils=$version")
    fi
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --allow-downgrades --no-install-recommends "${missing[@]}"
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install the stable toolchain (1.95 or newer), then run this again" >&2
    exit 1
fi
if [[ "${1:-}" = test || "${1:-}" = vms ]] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest with cargo"
    cargo install --locked cargo-nextest
fi
