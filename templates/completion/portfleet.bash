# bash completion of portfleet; written by `portfleet completion bash`
_portfleet() {
  local word current prefix='' line IFS
  local -a words=()
  # readline splits at ":" and "=" as well (COMP_WORDBREAKS): put 203.0.113.2:7101 and --release=v2 together again
  for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
    if [[ ${#words[@]} -gt 0 && ( $word == [:=] || ${words[-1]} == *[:=] ) ]]; then
      words[-1]+=$word
    else
      words+=("$word")
    fi
  done
  current=${words[-1]-}
  [[ $current != *[:=]* ]] || prefix=${current%"${current##*[:=]}"}
  COMPREPLY=()
  IFS=$'\x1f'
  while IFS= read -r line; do
    case $line in
      :files) compopt -o default 2>/dev/null; return ;;
      :directories) compopt -o dirnames 2>/dev/null; return ;;
    esac
    line=${line%%$'\t'*}
    [[ $line != "$current"* ]] || COMPREPLY+=("${line#"$prefix"}")
  done < <(portfleet completion --complete="${words[*]}" 2>/dev/null)
}
complete -F _portfleet portfleet
