# shellcheck shell=bash
# One line for each step, on standard error, and a way to fail that says what to do.
#
# A step is opened with `step NAME`, closed with `ok WORDS`. What a step's commands print goes to
# $LOG through `quietly`, so that no program started by a script holds the script's own output.

LOG="${LOG:-/dev/null}"
_step=""
_step_at=0

step() {
    _step="$1"
    _step_at=$SECONDS
    printf '%-20s ' "$_step" >&2
}

ok() {
    printf '%s (%d s)\n' "$*" "$((SECONDS - _step_at))" >&2
    _step=""
}

# fail WORDS...: one line each, then exit code 1.
fail() {
    if [ -n "$_step" ]; then printf 'failed (%d s)\n' "$((SECONDS - _step_at))" >&2; fi
    printf '%s\n' "$@" >&2
    exit 1
}

# quietly COMMAND...: its output goes to the log; if it fails, the end of the log is shown.
quietly() {
    local from code=0
    from=$(wc -c <"$LOG")
    printf '$ %s\n' "$*" >>"$LOG"
    "$@" >>"$LOG" 2>&1 </dev/null || code=$?
    if [ "$code" -ne 0 ] && [ -f "$LOG" ]; then
        printf '\n' >&2
        tail -c "+$((from + 1))" "$LOG" | tail -n 15 | sed 's/^/    /' >&2
    fi
    return "$code"
}

# detached LOGFILE COMMAND...: start a daemon that outlives this script and holds nothing of it:
# no terminal, no pipe, no inherited descriptor. Sets DETACHED_PID.
detached() {
    local log="$1"
    shift
    (
        for fd in /proc/self/fd/*; do
            fd="${fd##*/}"
            if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
        done
        exec setsid nohup "$@"
    ) >>"$log" 2>&1 </dev/null &
    # shellcheck disable=SC2034 # read by the callers
    DETACHED_PID=$!
    disown
}
