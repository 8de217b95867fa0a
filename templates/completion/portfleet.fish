# fish completion of portfleet; written by `portfleet completion fish`
function __portfleet_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found (portfleet completion --complete=(string join \x1f -- $words[2..-1] "$current") 2>/dev/null)
    switch "$found[1]"
        case ':files'
            __fish_complete_path "$current"
        case ':directories'
            __fish_complete_directories "$current"
        case '*'
            printf '%s\n' $found
    end
end
complete -c portfleet -f -a '(__portfleet_complete)'
