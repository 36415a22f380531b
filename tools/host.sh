#!/bin/sh
# Installs what this machine lacks to make virtual Pis and run the tests: Debian packages, and qemu's handlers.
# usage: host.sh [--emulation] [--tests] [--machines] [--many]
#                                          with --emulation also what containers of another architecture need,
#                                          with --tests the broker that unit tests talk to (Debian's, on loopback), and a browser,
#                                          with --machines what emulates virtual Pis with a kernel of their own,
#                                          with --many what the kernel keeps for 50 containers that boot systemd, until the next boot
set -eu

packages="make shellcheck python3-venv openssh-client rsync podman runc iptables nftables netavark aardvark-dns uidmap slirp4netns
fuse-overlayfs mmdebstrap debian-archive-keyring"
emulation=
many=
for option in "$@"; do
  case $option in
    --emulation) emulation=yes packages="$packages qemu-user-static binfmt-support arch-test" ;;
    --machines) packages="$packages qemu-system-x86 qemu-system-arm qemu-utils mtools dosfstools e2fsprogs" ;;
    --many) many=yes ;;
    --tests) packages="$packages mosquitto chromium" ;;
  esac
done

if [ "$(id -u)" -eq 0 ]; then sudo=; else sudo=sudo; fi

missing=
for package in $packages; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
if [ -n "$missing" ]; then
  echo "Installing:$missing"
  $sudo apt-get -qq update
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install --yes --no-install-recommends $missing >/dev/null
fi

if [ -n "$emulation" ]; then
  # Where systemd is not PID 1 (containers, some CI machines) nobody has registered the handlers.
  [ -e /proc/sys/fs/binfmt_misc/register ] || $sudo mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  # Debian registers its handlers without the flag C, and sudo in an emulated virtual Pi then is not root. Handlers of
  # our own, by the magic numbers of Debian's, go before them until the next boot or `make clean`.
  for architecture in arm aarch64; do
    trixies=/usr/lib/binfmt.d/qemu-$architecture.conf
    bookworms=/usr/share/binfmts/qemu-$architecture
    if [ -e "/proc/sys/fs/binfmt_misc/pi-fleet-$architecture" ] || [ "$architecture" = "$(uname -m)" ]; then continue; fi
    if [ -e "$trixies" ]; then
      sed 's/^:qemu-/:pi-fleet-/; s/:[A-Z]*$/:PFC/' "$trixies"
    elif [ -e "$bookworms" ]; then
      field() { sed -n "s/^$1 //p" "$bookworms"; }
      printf ':pi-fleet-%s:M:0:%s:%s:%s:PFC\n' "$architecture" "$(field magic)" "$(field mask)" "$(field interpreter)"
    fi | $sudo tee /proc/sys/fs/binfmt_misc/register >/dev/null
  done
fi

if [ -n "$many" ] && [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -lt 1024 ]; then
  echo "Setting fs.inotify.max_user_instances to 1024, until the next boot"
  echo 1024 | $sudo tee /proc/sys/fs/inotify/max_user_instances >/dev/null
fi
