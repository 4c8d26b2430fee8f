#!/bin/sh
# boot_systemd.sh UNITS: boots systemd as PID 1 of namespaces of its own, over the files of this
# machine (what is written there is gone afterwards), with the units of a directory and no others;
# lab.target is what it starts. Stays in the network namespace in which it is called.
set -eu
units=$1
if [ "${2-}" != entered ]; then
    # Below this one, systemd makes a control group for each unit.
    group=$(mktemp -d "$(findmnt -n -o TARGET -t cgroup2 | head -n 1)/lab-XXXXXX")
    echo "$group" # for who tidies up
    echo $$ >"$group/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$0" "$units" entered
fi
mount --make-rprivate /
work=$(mktemp -d)
mount -t tmpfs -o mode=755 lab "$work"
root=$work/root
mkdir "$work/upper" "$work/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" lab "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 lab "$root/run"
for directory in lab synergy-build; do
    mkdir "$root/run/$directory"
    mount --bind "/run/$directory" "$root/run/$directory"
done
mount -t tmpfs -o mode=1777 lab "$root/tmp"
mount -t tmpfs -o mode=755 lab "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 lab "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
rm -rf "$root/etc/systemd/system"
cp -r "$units" "$root/etc/systemd/system"
: >"$root/etc/machine-id"
# Not chroot(1) alone: namespaces that systemd makes for units begin at the root of all mounts.
cd "$root"
mkdir old
pivot_root . old
umount -l old
rmdir old
exec chroot . env -i PATH="$PATH" container=lab \
    /lib/systemd/systemd --system --unit=lab.target --log-target=console --show-status=no
