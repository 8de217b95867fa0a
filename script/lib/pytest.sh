#!/usr/bin/env bash
# pytest with all processors, isolated. The base folder is short: a unix socket's path has 107 bytes (unix(7)). What the
# tests start a thousand times is compiled once, as after an installation, whatever the caller's environment says.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE
# shellcheck disable=SC2016 # the inner shell expands these
exec script/isolated sh -c '
  export PYTHONPYCACHEPREFIX="$TMPDIR/compiled"
  exec .venv/bin/pytest --basetemp "$TMPDIR/t" -n "$(nproc)" --dist worksteal "$@"' pytest "$@"
