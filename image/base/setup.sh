#!/bin/sh
# Finishes the root file system in $1 once its packages are installed. It runs
# on the host; what belongs inside runs through chroot.
set -eu
root=$1

chroot "$root" useradd --uid 1000 --user-group --create-home --home-dir /home/user --shell /bin/bash user
# The account has no password, so nothing but sudo's own rule lets it become root.
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"

# Every workspace gets its own identity from the agent; none is baked in.
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"

# What apt and the installation leave behind is of no use to a fresh system.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
	"$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache
find "$root/var/log" -type f -exec truncate -s 0 {} +
