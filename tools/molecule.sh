#!/usr/bin/env bash
# Runs molecule's scenarios, two at a time, each from nothing to nothing, and says how long each took.
# usage: molecule.sh [SCENARIO ...]    without a name: all of the gate
set -uo pipefail
cd "$(dirname "$0")/.." || exit

export NO_COLOR=1 ANSIBLE_NOCOLOR=1
log=.cache/molecule/log
# Whole lives that take longer than the gate has: `make test-full` runs them.
full_only='drift|offline|pull|reimage|rollout'
mkdir -p "$log"

scenario() {
  local begun=$SECONDS
  if molecule test --scenario-name "$1" --destroy always >"$log/$1" 2>&1; then
    printf '%-20s passed in %d s\n' "$1" $((SECONDS - begun))
    return 0
  fi
  printf '%-20s FAILED in %d s; from %s:\n' "$1" $((SECONDS - begun)) "$log/$1"
  grep --after-context=30 --max-count=2 -E 'ERROR\]|fatal:|^E  ' "$log/$1" || tail -n 40 "$log/$1"
  return 1
}

if [ $# -eq 0 ]; then
  # default first: it builds the images that the others start from.
  scenario default || exit
  # The two long ones start first.
  mapfile -t names < <(for file in molecule/*/molecule.yml; do basename "$(dirname "$file")"; done | grep -vxE "default|armhf|fleet|$full_only")
  set -- armhf fleet "${names[@]}"
fi

export -f scenario
export log
printf '%s\n' "$@" | xargs --max-procs=2 -I{} bash -c 'scenario {}' || {
  echo "molecule: some of $# scenarios failed"
  exit 1
}
echo "molecule: all of $# scenarios passed"
