#compdef portfleet
# zsh completion of portfleet; written by `portfleet completion zsh`
_portfleet() {
  local line
  local -a found
  while IFS= read -r line; do
    case $line in
      :files) _files; return ;;
      :directories) _files -/; return ;;
    esac
    found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done < <(portfleet completion --complete="${(pj:\x1f:)words[2,CURRENT]}" 2>/dev/null)
  _describe portfleet found
}
if [[ ${funcstack[1]-} == _portfleet ]]; then
  _portfleet "$@"
else
  compdef _portfleet portfleet
fi
