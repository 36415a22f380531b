#!/usr/bin/env bash
# Runs tests and says how long each took: `lint`, `unit`, or a molecule scenario from nothing to nothing. One more at a time than there
# are processors, as most of them wait now and then.
# usage: tests.sh [TEST ...]    `gate` is all that `make test` runs; without a name: its scenarios alone
set -uo pipefail
cd "$(dirname "$0")/.." || exit

export NO_COLOR=1 ANSIBLE_NOCOLOR=1
log=.cache/tests
# Whole lives that take longer than the gate has: `make test-full` runs them.
full_only='armhf_vm|collect|drift|faults|firstboot|load|offline|pull|reimage|rollout|secrets|vm'
mkdir -p "$log"

# One test, its words kept in its log; the last of them where they count something.
one() {
  case $1 in
    lint) make --no-print-directory lint ;;
    unit) pytest ;;
    *) molecule test --scenario-name "$1" --destroy always ;;
  esac >"$log/$1" 2>&1
}

run() {
  local begun=$SECONDS
  if one "$1"; then
    printf '%-20s passed in %d s%s\n' "$1" $((SECONDS - begun)) "$([ "$1" != unit ] || tail -n 1 "$log/$1" | sed 's/^/: /')"
    return 0
  fi
  printf '%-20s FAILED in %d s; from %s:\n' "$1" $((SECONDS - begun)) "$log/$1"
  # What failed on purpose comes before what failed.
  { grep --after-context=30 -E 'ERROR\]|fatal:|^ *E  ' "$log/$1" || cat "$log/$1"; } | tail -n 80
  # Without images there is nothing to run on: 255 has xargs start no more.
  [ "$1" != default ] || return 255
  return 1
}

# The images come first, by scenario default; armhf makes its own. The other long ones are next, so that none is last alone.
long=(armhf fleet verify local_core classify preflight)
mapfile -t names < <(for file in molecule/*/molecule.yml; do basename "$(dirname "$file")"; done |
  grep -vxE "default|$(IFS='|' && echo "${long[*]}")|$full_only")
gate=(default "${long[@]}" "${names[@]}")
case ${1-} in
  '') set -- "${gate[@]}" ;;
  gate) set -- default armhf lint unit "${gate[@]:2}" ;;
esac

export -f one run
export log
printf '%s\n' "$@" | xargs --max-procs=$(($(nproc) + 1)) -I{} bash -c 'run {}' || {
  echo "tests: some of $# failed"
  exit 1
}
echo "tests: all of $# passed"
