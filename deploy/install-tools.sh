#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks. Says what; asks nothing; does nothing if all is there.
set -euo pipefail

for_what=${1:-}
# Debian has some of them where not everybody's PATH leads.
PATH=$PATH:/usr/sbin:/sbin
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }

look() {
    missing=()
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
    if [ "$for_what" = "test" ]; then
        need nsenter util-linux
        need iptables iptables
        # The libvirt driver is tested against libvirt's own test hypervisor, which is in its library.
        need pkg-config pkg-config
        pkg-config --exists libvirt 2>/dev/null || missing+=(libvirt-dev)
        # A real guest agent is spoken to in the place of a guest.
        need qemu-ga qemu-guest-agent
    fi
    # The VM lab runs libvirt hosts with real QEMU guests, and builds its guest from Debian's packages.
    if [ "$for_what" = "vms" ]; then
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
    if [ "$for_what" = "dashboard" ] && [ ! -x "${CHROMIUM:-/usr/bin/chromium}" ]; then missing+=(chromium); fi
    # The tests move the node's clock with it.
    if [ "$for_what" = "test" ] && ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then missing+=(libfaketime); fi
}

look
if [ "${#missing[@]}" -gt 0 ]; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    echo "installing from Debian: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    # The hypervisor's packages want each other in one version: one of another suite that is there already goes with the rest.
    if [[ " ${missing[*]} " == *" qemu-system-x86 "* || " ${missing[*]} " == *" qemu-utils "* ]]; then
        version=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
        kept=()
        for package in "${missing[@]}"; do
            case $package in qemu-system-x86 | qemu-utils) ;; *) kept+=("$package") ;; esac
        done
        missing=("${kept[@]}" "qemu-system-x86=$version" "qemu-system-common=$version" "qemu-utils=$version")
    fi
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --allow-downgrades --no-install-recommends "${missing[@]}"
    look
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "still missing after the installation: ${missing[*]}; install them by hand, then run this again" >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install the stable toolchain (1.95 or newer), then run this again" >&2
    exit 1
fi
if [[ "$for_what" = test || "$for_what" = vms ]] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest with cargo"
    cargo install --locked cargo-nextest
fi
