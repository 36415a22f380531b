#!/usr/bin/env bash
# Makes a virtual Pi, provisions it, verifies it, and says what stands.
# usage: demo.sh RELEASE    (ARCH in the environment: another architecture than this machine's)
set -euo pipefail
cd "$(dirname "$0")/.."
release=$1
host=pi-$release
begun=$SECONDS
# What was skipped is of no interest here, nor what was right already while the device is made.
export ANSIBLE_DISPLAY_SKIPPED_HOSTS=false

case $release in
  bookworm | trixie) ;;
  *)
    echo "RELEASE is '$release'; wanted is bookworm or trixie." >&2
    exit 2
    ;;
esac

step() {
  printf '\n=== %s (%d s so far)\n' "$1" $((SECONDS - begun))
}

step "Making $host, a virtual Pi: a container with systemd and sshd${ARCH:+, emulating $ARCH}"
ANSIBLE_DISPLAY_OK_HOSTS=false ansible-playbook playbooks/virtual_fleet.yml --extra-vars "virtual_fleet=$host"

step "Provisioning it over SSH, as a real Pi: ansible-playbook playbooks/site.yml --limit $host"
ANSIBLE_DISPLAY_OK_HOSTS=false ansible-playbook playbooks/site.yml --limit "$host"

step "Verifying it: ansible-playbook playbooks/verify.yml --limit $host"
ansible-playbook playbooks/verify.yml --limit "$host" --extra-vars "verify_report_path=$PWD/.cache/verify"

checks=$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["checks"]))' ".cache/verify/$host.json")
architecture=$(ssh -F .cache/virtual-fleet/ssh_config "$host" dpkg --print-architecture)
cat <<END

=== Done in $((SECONDS - begun)) s
What stands     $host: Debian $release, $architecture, provisioned over SSH
What was proven $checks checks, all right: .cache/verify/$host.json
What waits      swap and kernel flags: a container's kernel is its host's; a real Pi activates them

What to do next   (after: . .venv/bin/activate)
  look around       ssh -F .cache/virtual-fleet/ssh_config $host
  run it again      ansible-playbook playbooks/site.yml --limit $host        (it changes nothing)
  a real fleet      cp -r inventory/example inventory/my-fleet, name your Pis in it, then
                    ansible-playbook -i inventory/my-fleet playbooks/site.yml
  remove all of it  make clean
END
