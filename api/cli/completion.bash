# shellcheck shell=bash disable=SC2154 # both variables are assigned in front of this
# Completes `python -m api` in $_activity_checkout; whatever else Python is run for is left to what
# completed it before.

_activity_complete_python() {
    if ((COMP_CWORD > 2)) && [[ ${COMP_WORDS[1]} == -m && ${COMP_WORDS[2]} == api ]] &&
        [[ . -ef $_activity_checkout ]]; then
        COMPREPLY=()
        [[ $3 == --config ]] && return # a file, which bash completes by itself
        local IFS=$'\n'
        mapfile -t COMPREPLY < <(
            COMP_WORDS="${COMP_WORDS[*]:2}" COMP_CWORD=$((COMP_CWORD - 2)) \
                _ACTIVITY_COMPLETE=complete_bash "$_activity_python" -m api 2>/dev/null
        )
    elif [[ $_activity_before ]]; then
        "$_activity_before" "$@"
    fi
}

# bash-completion loads what it has for a command when that is first completed.
if declare -F _comp_load >/dev/null; then
    _comp_load python
elif declare -F _completion_loader >/dev/null; then
    _completion_loader python
fi
if [[ $(complete -p python 2>/dev/null) =~ \ -F\ ([^ ]+) ]] &&
    [[ ${BASH_REMATCH[1]} != _activity_complete_python ]]; then
    _activity_before=${BASH_REMATCH[1]}
fi
complete -o bashdefault -o default -F _activity_complete_python python python3
