#!/usr/bin/env bash
# Builds the guest of the VM lab from Debian's own packages: build-guest.sh DIR prints the path of its image.
# A disk that starts by BIOS: a FAT partition with the kernel and an initramfs that is the whole system (busybox and the
# QEMU guest agent), and an ext4 partition for what it keeps. Nothing is done when DIR has the image of these sources.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
mkdir -p "$dir"
exec 9> "$dir/.lock"
flock 9
sources=$(cat "$0" "$here"/guest/* | sha256sum | cut -d' ' -f1)
image=$dir/guest.qcow2
if [ -s "$image" ] && [ "$(cat "$dir/.sources" 2>/dev/null)" = "$sources" ]; then
    echo "$image"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
apt-get -qq -o APT::Sandbox::User=root download "$kernel" qemu-guest-agent >&2
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
version=$(ls unpacked/lib/modules)

tree=$work/tree
mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,tmp,var,root}
cp "$(command -v busybox)" "$tree/bin/busybox"
"$tree/bin/busybox" --list-full | while read -r applet; do
    mkdir -p "$tree/$(dirname "$applet")"
    [ -e "$tree/$applet" ] || ln -s /bin/busybox "$tree/$applet"
done
ln -sf /bin/busybox "$tree/sbin/init"
ln -s /run "$tree/var/run"
# Whoever asks the guest to go down, the agent or the power button, asks busybox.
printf '#!/bin/sh\ncase "$*" in *-r*) exec /sbin/reboot ;; *) exec /sbin/poweroff ;; esac\n' > "$work/shutdown"
rm -f "$tree/sbin/shutdown" && install -m 755 "$work/shutdown" "$tree/sbin/shutdown"
mkdir -p "$tree/etc/acpi/PWRF"
printf '#!/bin/sh\nexec /sbin/poweroff\n' > "$tree/etc/acpi/PWRF/00000080"
chmod 755 "$tree/etc/acpi/PWRF/00000080"
install -m 755 "$here/guest/init" "$tree/init"
install -m 755 "$here"/guest/{begin,address,talk,count} "$tree/etc/"
install -m 644 "$here"/guest/{inittab,modules} "$tree/etc/"
printf 'ID=hiveward-lab\nNAME="Hiveward lab"\nPRETTY_NAME="Hiveward lab guest"\nVERSION_ID=1\n' > "$tree/etc/os-release"
echo 'root:x:0:0:root:/root:/bin/sh' > "$tree/etc/passwd"
echo 'root:x:0:' > "$tree/etc/group"
install -D -m 755 unpacked/usr/sbin/qemu-ga "$tree/usr/sbin/qemu-ga"
ldd unpacked/usr/sbin/qemu-ga | grep -o '/[^ )]*' | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$tree$library"
done
busybox depmod -b unpacked "$version" 2>/dev/null || true
while read -r module; do
    # A module that is part of the kernel has no file; one that is neither is looked for in vain and left out.
    line=$(grep -E "/${module//_/[-_]}\.ko:" "unpacked/lib/modules/$version/modules.dep" || true)
    for file in ${line//:/}; do install -D -m 644 "unpacked/lib/modules/$version/$file" "$tree/lib/modules/$version/$file"; done
done < "$here/guest/modules"
cp unpacked/lib/modules/"$version"/modules.{order,builtin} "$tree/lib/modules/$version/"
busybox depmod -b "$tree" "$version"
(cd "$tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -6n) > initrd

disk=$work/disk
truncate -s 96M "$disk"
printf 'label: dos\nstart=2048, size=81920, type=c, bootable\nstart=83968, type=83\n' | sfdisk -q "$disk"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc status=none
mformat -i "$disk@@1M" -T 81920 -h 16 -s 63 -H 2048 -v LABBOOT ::
printf 'DEFAULT lab\nPROMPT 0\nLABEL lab\n KERNEL vmlinuz\n INITRD initrd\n APPEND console=ttyS0 quiet panic=1\n' > syslinux.cfg
mcopy -i "$disk@@1M" unpacked/boot/vmlinuz-* ::vmlinuz
mcopy -i "$disk@@1M" initrd syslinux.cfg ::
syslinux --offset $((2048 * 512)) --install "$disk"
mke2fs -q -t ext4 -L labdata -m 0 -E offset=$((83968 * 512)) "$disk" $(((96 * 2048 - 83968) / 2))k
qemu-img convert -q -c -O qcow2 "$disk" "$image.new"
mv "$image.new" "$image"
echo "$sources" > "$dir/.sources"
echo "$image"
