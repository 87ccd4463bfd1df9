#!/usr/bin/env bash
# Runs a command with the compiler flags of a chip, which stand in launch/flags/CHIP.env:
#
#     launch/with_flags.sh [--dry_run] v5e|v5p|v6e|h100 COMMAND...
#
# Flags that LIBTPU_INIT_ARGS or XLA_FLAGS already hold come last and so win.

set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

case ${1-} in
  --help) parse '' '' --help ;;
  --dry_run) dry_run=yes && shift ;;
esac
(($# > 1)) || die "a chip and a command are needed; try --help"
chip=$1 && shift
[[ $chip != */* && -f $here/flags/$chip.env ]] ||
  die "no flags for the chip $chip; there are: $(cd "$here/flags" && echo *.env | sed 's/\.env//g')"
# shellcheck source=/dev/null
source "$here/flags/$chip.env"
if [[ $dry_run ]]; then
  for variable in LIBTPU_INIT_ARGS XLA_FLAGS XLA_PYTHON_CLIENT_MEM_FRACTION; do
    [[ ! ${!variable-} ]] || quoted export "$variable=${!variable}"
  done
  quoted exec "$@"
else
  exec "$@"
fi
