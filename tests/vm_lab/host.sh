#!/usr/bin/env bash
# The first process of one lab host, in mount, network, uts, ipc and pid namespaces of its own: host.sh DIR NAME ADDRESS
# When it ends the kernel ends all that runs on the host, guests included.
set -euo pipefail
dir=$1 name=$2 address=$3
hostname "$name"
mount --make-rprivate /
for own in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt /run/lock; do
    mkdir -p "$own" "$dir$own"
    mount --bind "$dir$own" "$own"
done
mount --bind "$dir/hosts" /etc/hosts
mount -t sysfs sysfs /sys
# Devices of its own and no /dev/kvm: a lab is the same on a machine that has it and on one that has not.
mkdir -p "$dir/dev"
mount -t tmpfs -o mode=755 tmpfs "$dir/dev"
mkdir "$dir/dev/net" "$dir/dev/pts" "$dir/dev/shm"
for device in null zero full random urandom tty net/tun; do
    : > "$dir/dev/$device"
    mount --bind "/dev/$device" "$dir/dev/$device"
done
mount --bind /dev/pts "$dir/dev/pts"
mount -t tmpfs tmpfs "$dir/dev/shm"
ln -s pts/ptmx "$dir/dev/ptmx"
ln -s /proc/self/fd "$dir/dev/fd"
mount --rbind "$dir/dev" /dev
ip link set lo up
until ip link show uplink > /dev/null 2>&1; do sleep 0.02; done
ip link add br0 type bridge forward_delay 0
ip link set uplink master br0 up
# A bridge takes the lowest address of its ports, a guest's tap has the same on both hosts, and a link's here is drawn: where that
# was above the tap's, two hosts had one address while a guest moved, and heard each other no more.
ip link set br0 address "$(< /sys/class/net/uplink/address)"
ip link set br0 up
ip address add "$address/24" dev br0
virtlogd -d -p /run/libvirt/virtlogd.pid
libvirtd -d -l -p /run/libvirt/libvirtd.pid
trap 'exit 0' TERM
# Reaps what the host's processes leave behind.
while :; do
    sleep 3600 &
    wait $! || true
done
