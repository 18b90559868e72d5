# shellcheck shell=bash
# The server as a background process: started once, known by pid and start time, stopped by that.
#
# $DATA_DIR/server.pid holds "PID STARTTIME ADDRESS PORT": a pid alone may be another's after a
# crash or a reboot; pid and start time together are not.

SERVER_SECONDS=60
SERVER_PID="" SERVER_ADDRESS="" SERVER_PORT=""

# _server_started_at PID: in clock ticks since boot; nothing for a process that is gone or dead.
_server_started_at() {
    # Fields of stat are counted after the command's name, which may hold spaces: the state is
    # the first, the start time the twentieth.
    sed -n 's/.*) //; /^[^ZX]/p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

# server_running: whether the server that was started from this data folder still runs.
server_running() {
    local started=""
    SERVER_PID=""
    [ -f "$DATA_DIR/server.pid" ] || return 1
    read -r SERVER_PID started SERVER_ADDRESS SERVER_PORT <"$DATA_DIR/server.pid" || return 1
    [ -n "$started" ] && [ "$(_server_started_at "$SERVER_PID")" = "$started" ]
}

# server_settings: "HOST PORT PUBLIC_URL" as the server will find them without options: from
# TIDEMILL_*, tidemill.toml of the data folder, or the defaults. Raises a message on standard error.
server_settings() {
    "$REPO/.venv/bin/python" -I - "$DATA_DIR/tidemill.toml" <<'PYTHON'
import os, sys
from pathlib import Path

from tidemill.model.errors import TidemillError
from tidemill.settings import load

own = Path(os.environ.get("TIDEMILL_CONFIG") or sys.argv[1])
try:
    settings = load(own if own.exists() else None, {}).settings
except TidemillError as error:
    sys.exit(error.message)
print(settings.host, settings.port, settings.public_url)
PYTHON
}

# server_start ADDRESS PORT: in the background, its output in $DATA_DIR/server.log.
server_start() {
    local log="$DATA_DIR/server.log"
    (umask 077 && : >>"$log")
    detached "$log" "$REPO/.venv/bin/tidemill" serve --data-dir "$DATA_DIR" --host "$1" --port "$2"
    # shellcheck disable=SC2034 # read by the callers
    SERVER_PID=$DETACHED_PID SERVER_ADDRESS="$1" SERVER_PORT="$2"
    printf '%s %s %s %s\n' "$SERVER_PID" "$(_server_started_at "$SERVER_PID")" "$1" "$2" \
        >"$DATA_DIR/server.pid"
}

# server_wait URL: until it is ready to serve; ends the script when it dies or takes too long.
server_wait() {
    local until=$((SECONDS + SERVER_SECONDS))
    while ! server_ready "$1"; do
        if ! server_running; then
            tail -n 15 "$DATA_DIR/server.log" | sed 's/^/    /' >&2
            fail "The server ended at once. Its log: $DATA_DIR/server.log"
        fi
        if [ "$SECONDS" -ge "$until" ]; then
            tail -n 15 "$DATA_DIR/server.log" | sed 's/^/    /' >&2
            fail "The server is not ready after $SERVER_SECONDS seconds (asked: $1/readyz)." \
                "Its log: $DATA_DIR/server.log"
        fi
        sleep 0.2
    done
}

server_ready() {
    "$REPO/.venv/bin/python" -I -c '
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.exit(opener.open(sys.argv[1] + "/readyz", timeout=5).status != 200)' "$1" >/dev/null 2>&1
}

# server_stop: by its own pid; instances go on running. Nothing to stop is success.
server_stop() {
    if ! server_running; then
        ok "does not run"
        return 0
    fi
    local until=$((SECONDS + SERVER_SECONDS))
    kill -TERM "$SERVER_PID"
    while server_running; do
        if [ "$SECONDS" -ge "$until" ]; then
            fail "The server (pid $SERVER_PID) has not ended $SERVER_SECONDS seconds after SIGTERM." \
                "Its log: $DATA_DIR/server.log"
        fi
        sleep 0.1
    done
    ok "stopped; instances go on running"
}
