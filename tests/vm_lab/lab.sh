#!/usr/bin/env bash
# A lab of libvirt hosts with real QEMU guests on one machine, without KVM. Needs root.
#   lab.sh up DIR TAG NET HOSTS    starts hosts 1..HOSTS under DIR; TAG names its bridge, NET is its /24 such as 10.93.7
#   lab.sh down DIR TAG            ends what `up` started there, and nothing else
#   lab.sh daemon DIR N            starts libvirtd on host N again
# DIR is short, because sockets' paths are; host N has its socket at DIR/N/run/libvirt/libvirt-sock.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
action=$1 dir=$2

inside() { nsenter -t "$(cat "$dir/$1/pid")" -m -u -i -n -p -- "${@:2}"; }
answers() { virsh -q -c "qemu+unix:///system?socket=$dir/$1/run/libvirt/libvirt-sock" hostname > /dev/null 2>&1; }
wait_for() {
    for _ in $(seq 400); do
        if answers "$1"; then return; fi
        sleep 0.05
    done
    echo "host $1 does not answer: $(tail -n 3 "$dir/$1/log" "$dir/$1/var/log/libvirt/libvirtd.log" 2>&1)" >&2
    exit 1
}

case $action in
up)
    tag=$3 net=$4 hosts=$5
    mkdir -p "$dir/shared"
    ip link add "$tag" type bridge forward_delay 0
    ip address add "$net.1/24" dev "$tag"
    ip link set "$tag" up
    dnsmasq --conf-file=/dev/null --pid-file="$dir/dnsmasq.pid" --dhcp-leasefile="$dir/leases" --interface="$tag" \
        --bind-interfaces --except-interface=lo --port=0 --dhcp-range="$net.100,$net.250,255.255.255.0,1h" \
        --dhcp-option=option:router,"$net.1"
    for n in $(seq "$hosts"); do
        mkdir -p "$dir/$n/etc/libvirt/qemu" "$dir/$n/var/lib/libvirt/images" "$dir/$n/run/libvirt" "$dir/$n/var/log/libvirt/qemu"
        { echo "127.0.0.1 localhost"; for m in $(seq "$hosts"); do echo "$net.$((10 + m)) $tag-$m"; done; } > "$dir/$n/hosts"
        cat > "$dir/$n/etc/libvirt/libvirtd.conf" << CONF
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
listen_tcp = 1
listen_addr = "$net.$((10 + n))"
auth_tcp = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
CONF
        cat > "$dir/$n/etc/libvirt/qemu.conf" << CONF
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
migration_host = "$net.$((10 + n))"
CONF
        : > "$dir/$n/etc/libvirt/virtlogd.conf"
        setsid unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc \
            "$here/host.sh" "$dir/$n" "$tag-$n" "$net.$((10 + n))" < /dev/null > "$dir/$n/log" 2>&1 &
        outer=$!
        until first=$(cat "/proc/$outer/task/$outer/children" 2> /dev/null) && [ -n "$first" ]; do
            [ -d "/proc/$outer" ] || { echo "host $n did not start: $(cat "$dir/$n/log")" >&2; exit 1; }
            sleep 0.02
        done
        echo "${first%% *}" > "$dir/$n/pid"
        ip link add "$tag-$n" type veth peer name uplink netns "${first%% *}"
        ip link set "$tag-$n" master "$tag" up
    done
    for n in $(seq "$hosts"); do wait_for "$n"; done
    ;;
daemon)
    inside "$3" libvirtd -d -l -p /run/libvirt/libvirtd.pid
    wait_for "$3"
    ;;
down)
    tag=$3
    for pid in "$dir"/*/pid; do
        [ -e "$pid" ] || continue
        first=$(cat "$pid")
        # Only while it is still this host: numbers are used again.
        if tr '\0' ' ' < "/proc/$first/cmdline" 2> /dev/null | grep -qF "host.sh ${pid%/pid} "; then
            kill -9 "$first"
            while [ -d "/proc/$first" ]; do sleep 0.02; done
        fi
        rm -f "$pid"
    done
    if server=$(cat "$dir/dnsmasq.pid" 2> /dev/null) && grep -qF "$dir/leases" "/proc/$server/cmdline" 2> /dev/null; then
        kill "$server"
    fi
    for link in /sys/class/net/"$tag" /sys/class/net/"$tag"-*; do
        # That of a host goes by itself, soon after it.
        [ ! -e "$link" ] || ip link delete "${link##*/}" 2> /dev/null || [ ! -e "$link" ]
    done
    rm -rf "$dir"
    ;;
*)
    echo "lab.sh up|down|daemon" >&2
    exit 2
    ;;
esac
