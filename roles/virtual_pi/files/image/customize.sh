#!/bin/sh
# mmdebstrap's customize hook: turns a minimal Debian into what Raspberry Pi OS looks like where roles look.
# usage: customize.sh ROOT RELEASE   (run from the recipe's folder)
set -eu
root=$1
release=$2
here=$(dirname "$0")

cp -r "$here/common/." "$here/$release/." "$root/"
find "$here/common" "$here/$release" -type f | while read -r file; do
  path=${file#"$here/common"}
  path=${path#"$here/$release"}
  chown root:root "$root$path"
  chmod 0644 "$root$path"
done

if [ "$release" = trixie ]; then
  package=$root/tmp/rpi-swap
  cp -r "$here/rpi-swap" "$package"
  find "$package" -type d -exec chmod 0755 {} +
  find "$package" -type f -exec chmod 0644 {} +
  chmod 0755 "$package/usr/lib/systemd/system-generators/rpi-swap-generator" "$package/usr/lib/rpi-swap/resize-swap-file"
  dpkg-deb --root-owner-group --build "$package" "$root/tmp/rpi-swap.deb" >/dev/null
  chroot "$root" dpkg --install /tmp/rpi-swap.deb
  rm -r "$package" "$root/tmp/rpi-swap.deb"
fi

# The first user, as the imager makes it: sudo asks for a password. Its password and key come with each virtual Pi.
chroot "$root" useradd --create-home --shell /bin/bash --groups sudo,video,users pi
# Every virtual Pi makes its own.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"

# systemd-binfmt would change the host's table of interpreters. The apt timers would hold apt at random moments.
chroot "$root" systemctl --quiet mask systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
  systemd-udevd.service systemd-firstboot.service apt-daily.timer apt-daily-upgrade.timer
chroot "$root" systemctl --quiet enable ssh.service virtual-pi-first-boot.service
chroot "$root" systemctl --quiet set-default multi-user.target

# Under qemu-user these fail on their credentials, which a virtual Pi does not have.
for unit in systemd-sysusers systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-tmpfiles-setup-dev-early \
  systemd-sysctl systemd-journald; do
  mkdir -p "$root/etc/systemd/system/$unit.service.d"
  {
    echo "[Service]"
    echo "LoadCredential="
    [ "$release" = bookworm ] || echo "ImportCredential="
  } >"$root/etc/systemd/system/$unit.service.d/virtual-pi.conf"
done

# Nor does qemu-user hand on what PrivateIPC= is shared by; a machine, which has a kernel, takes this back.
if [ "$(chroot "$root" dpkg --print-architecture)" != "$(dpkg --print-architecture)" ]; then
  mkdir -p "$root/usr/lib/systemd/system/service.d"
  printf '[Service]\nPrivateIPC=false\n' >"$root/usr/lib/systemd/system/service.d/virtual-pi.conf"
fi
