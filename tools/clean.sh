#!/bin/sh
# Removes what pi-fleet made on this machine, by its label, and what make put into the checkout. Nothing else.
set -eu
cd "$(dirname "$0")/.."

for engine in podman docker; do
  command -v "$engine" >/dev/null || continue
  containers=$("$engine" ps --all --quiet --filter label=pi-fleet 2>/dev/null) || continue
  # shellcheck disable=SC2086
  [ -z "$containers" ] || "$engine" rm --force --volumes $containers >/dev/null
  images=$("$engine" images --quiet --filter label=pi-fleet | sort -u)
  # shellcheck disable=SC2086
  [ -z "$images" ] || "$engine" rmi --force $images >/dev/null
done
# Virtual Pis with a kernel of their own.
for supply in .cache/*/machines/*/supply .cache/molecule/*/machines/*/supply; do
  [ -e "$supply" ] || continue
  # After a reboot of this host, the number may be somebody else's.
  [ "$(readlink "/proc/$(cat "$supply")/cwd")" != "$(realpath "$(dirname "$supply")")" ] ||
    kill -KILL -- "-$(cat "$supply")" || true
done
if [ "$(id -u)" -eq 0 ]; then sudo=; else sudo=sudo; fi
for handler in /proc/sys/fs/binfmt_misc/pi-fleet-*; do
  [ ! -e "$handler" ] || echo -1 | $sudo tee "$handler" >/dev/null
done
rm -rf .venv .cache dist .mypy_cache .ruff_cache .pytest_cache .hypothesis inventory/virtual/connections.yml
rm -rf inventory/virtual/keys
# By which builds of images wait for each other.
rm -f "/var/tmp/pi-fleet-$(id -u)-"*.lock
echo "Removed virtual Pis, their images, .venv, .cache and dist."
