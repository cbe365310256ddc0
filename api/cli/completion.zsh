# Completes `python -m api` in $_activity_checkout; whatever else Python is run for is left to zsh's
# own completion of it.

_activity_complete_python() {
    if (( CURRENT > 3 )) && [[ $words[2] == -m && $words[3] == api && . -ef $_activity_checkout ]]; then
        if [[ $words[CURRENT-1] == --config ]]; then
            _files
        else
            eval "$(_TYPER_COMPLETE_ARGS="${words[3,CURRENT]}" \
                _ACTIVITY_COMPLETE=complete_zsh $_activity_python -m api 2>/dev/null)"
        fi
    else
        _python "$@"
    fi
}

compdef _activity_complete_python python python3
