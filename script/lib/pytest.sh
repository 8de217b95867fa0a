#!/usr/bin/env bash
# pytest with all processors, isolated. The base folder is short: a unix socket's path has 107 bytes (unix(7)).
set -euo pipefail
# shellcheck disable=SC2016 # the inner shell expands these
exec script/isolated sh -c 'exec .venv/bin/pytest --basetemp "$TMPDIR/t" -n "$(nproc)" --dist worksteal "$@"' pytest "$@"
