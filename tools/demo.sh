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

# Asks the device twice over MQTT, shows the table, and keeps it in $answers.
ask() {
  answers=$(ANSIBLE_DISPLAY_OK_HOSTS=true ansible-playbook playbooks/classify.yml --limit "$host" --extra-vars classify_times=2) || {
    echo "$answers"
    exit 1
  }
  answers=$(grep -A2 -E '^ +device +category' <<<"$answers" | sed 's/^ *//')
  printf '\n%s\n\n' "$answers"
}

step "Making $host, a virtual Pi: a container with systemd and sshd${ARCH:+, emulating $ARCH}"
ANSIBLE_DISPLAY_OK_HOSTS=false ansible-playbook playbooks/virtual_fleet.yml --extra-vars "virtual_fleet=$host"

step "Provisioning it over SSH, as a real Pi: ansible-playbook playbooks/site.yml --limit $host"
echo "Its model is, as in the article, a model.tar.gz in the shape that SageMaker writes: converted here, dropped, served."
ANSIBLE_DISPLAY_OK_HOSTS=false ansible-playbook playbooks/site.yml --limit "$host" \
  --extra-vars "image_classifier_model=$PWD/.cache/models/sagemaker/model.tar.gz"
ask
echo "Those weights are random numbers, and so are its answers: it shows that the way of a model is open."

step "Dropping a model that knows a coffee mug: ansible-playbook playbooks/site.yml --limit $host"
echo "Only the roles that have something to do run: those to which the model is another one now."
ANSIBLE_DISPLAY_OK_HOSTS=false ansible-playbook playbooks/site.yml --limit "$host"

step "Verifying it: ansible-playbook playbooks/verify.yml --limit $host"
ansible-playbook playbooks/verify.yml --limit "$host" --extra-vars "verify_report_path=$PWD/.cache/verify"

step "Asking what is in front of its camera: ansible-playbook playbooks/classify.yml --limit $host"
echo "It has no camera and replays two photographs: a cup of coffee, and a rocket, which is clutter."
ask
for category in coffee-mug clutter; do
  grep -q " $category " <<<"$answers" || {
    echo "No photograph was taken for $category: 'journalctl -u localcore -u lambda@* -u connector@*' on $host tells why." >&2
    exit 1
  }
done

step "Asking whether anything changed since, by hand or by chance: ansible-playbook playbooks/drift.yml --limit $host"
ansible-playbook playbooks/drift.yml --limit "$host" --extra-vars "drift_report_path=$PWD/.cache/drift"

checks=$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["checks"]))' ".cache/verify/$host.json")
architecture=$(ssh -F .cache/virtual-fleet/ssh_config "$host" dpkg --print-architecture)
cat <<END

=== Done in $((SECONDS - begun)) s
What stands     $host: Debian $release, $architecture, provisioned over SSH, answering over MQTT
What it says    $(sed -n '2,$p' <<<"$answers" | awk '{ printf "%s%s %s in %s ms", sep, $2, $3, $4; sep = ", " }')
What was proven $checks checks, all right: .cache/verify/$host.json
What is watched .cache/drift/index.html, a page to look at in a browser: nothing changed since
What waits      swap and kernel flags: a container's kernel is its host's; a real Pi activates them

What to do next   (after: . .venv/bin/activate${ARCH:+; export ARCH=$ARCH})
  ask it again      ansible-playbook playbooks/classify.yml --limit $host
  look around       ssh -F .cache/virtual-fleet/ssh_config $host
  run it again      ansible-playbook playbooks/site.yml --limit $host        (it changes nothing)
  change something  by hand on it, then ansible-playbook playbooks/drift.yml --limit $host    (who says what, since when)
  a real fleet      cp -r inventory/example inventory/my-fleet, name your Pis in it, then
                    ansible-playbook -i inventory/my-fleet playbooks/site.yml
  remove all of it  make clean
END
