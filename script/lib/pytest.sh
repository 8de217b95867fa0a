#!/usr/bin/env bash
# pytest, isolated, with three workers for each processor, as tests wait for what they start (tests/conftest.py). The base folder
# is short: a unix socket's path has 107 bytes (unix(7)). What the tests start a thousand times is compiled once, as after
# an installation, whatever the caller's environment says, and kept for the next run.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE
# shellcheck disable=SC2016 # the inner shell expands these
exec script/isolated sh -c '
  export PYTHONPYCACHEPREFIX="$PWD/.cache/compiled"
  exec .venv/bin/pytest --basetemp "$TMPDIR/t" -n "$((3 * $(nproc)))" "$@"' pytest "$@"
