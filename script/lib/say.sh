# shellcheck shell=bash disable=SC2034 # the variables are for those who source it
# What the scripts share: where the checkout is, and how they speak. Sourced, never run.

top=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")
began=$EPOCHREALTIME

bold='' dim='' plain=''
if [[ -t 2 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

# say WORDS… - a step of progress on stderr, with the seconds since the script began
say() {
  local us=$((${EPOCHREALTIME/[.,]/} - ${began/[.,]/}))
  printf '%s[%3d.%d s]%s %s\n' "$dim" $((us / 1000000)) $((us / 100000 % 10)) "$plain" "$*" >&2
}

# die MESSAGE [HINT] - end with what is wrong and what now
die() {
  printf '%s%s: %s%s\n' "$bold" "${0##*/}" "$1" "$plain" >&2
  [[ $# -lt 2 ]] || printf 'hint: %s\n' "$2" >&2
  exit 1
}
