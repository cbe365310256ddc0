# Completes `python -m api` in $_activity_checkout, besides whatever else fish knows of Python.

function _activity_is_asked
    set --local words (commandline --tokenize --cut-at-cursor --current-process)
    test (count $words) -ge 3 -a "$words[2]" = -m -a "$words[3]" = api
    and test "$words[-1]" != --config
    and test (realpath .) = (realpath $_activity_checkout)
end

function _activity_answers
    set --local words (commandline --tokenize --cut-at-cursor --current-process)
    set --local asked (string join -- ' ' api (string escape -- $words[4..]) (commandline --current-token --cut-at-cursor))
    env _ACTIVITY_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TYPER_COMPLETE_ARGS=$asked $_activity_python -m api 2>/dev/null
end

complete --command python --command python3 --condition _activity_is_asked --no-files \
    --arguments '(_activity_answers)'
