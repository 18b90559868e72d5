# shellcheck shell=bash
# The container engine: find one that answers, else install Debian's and start it.

ENGINE_URL="${TIDEMILL_DOCKER_URL:-${DOCKER_HOST:-unix:///var/run/docker.sock}}"
export TIDEMILL_DOCKER_URL="$ENGINE_URL" DOCKER_HOST="$ENGINE_URL"
ENGINE_LOG=/var/log/tidemill-dockerd.log
ENGINE_SECONDS=60
ENGINE_VERSION=""
_engine_pid=""

# engine_answers: whether an engine answers at ENGINE_URL. Sets ENGINE_VERSION. Changes nothing.
# Python does the asking because it is there before any client of the engine is.
engine_answers() {
    ENGINE_VERSION=$(python3 -I - "$ENGINE_URL" 2>/dev/null <<'PYTHON'
import http.client, json, socket, sys

kind, _, place = sys.argv[1].partition("://")
if kind == "unix":
    connection = http.client.HTTPConnection("docker", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(place)
else:
    connection = http.client.HTTPConnection(place, timeout=10)
connection.request("GET", "/version")
answer = json.load(connection.getresponse())
print(answer["Version"], answer["ApiVersion"])
PYTHON
    ) || ENGINE_VERSION=$(docker version --format '{{.Server.Version}} {{.Server.APIVersion}}' 2>/dev/null) ||
        return 1
    [ -n "$ENGINE_VERSION" ]
}

# engine_possible: root can have an engine; anybody else needs one that answers. Changes nothing.
engine_possible() {
    if [ "$(id -u)" -eq 0 ] || engine_answers; then return 0; fi
    fail "No container engine answers at $ENGINE_URL, and without root none can be installed." \
        "Do one of these, then run it again:" \
        "    sudo $0                            (installs Debian's docker.io and starts it)" \
        "    sudo usermod -aG docker $(id -un)  (if Docker runs and you are not in its group; log in anew)" \
        "    DOCKER_HOST=unix:///path/to/docker.sock $0  (if it listens elsewhere)" \
        "Nothing was changed."
}

# engine_ensure: an engine answers, or the script ends.
engine_ensure() {
    if engine_answers; then
        ok "answers: Docker ${ENGINE_VERSION% *}, API ${ENGINE_VERSION#* }"
        return 0
    fi
    if [ "$ENGINE_URL" != unix:///var/run/docker.sock ]; then
        fail "No container engine answers at $ENGINE_URL." \
            "Start it, or unset DOCKER_HOST and TIDEMILL_DOCKER_URL to have one started here."
    fi
    if ! command -v dockerd >/dev/null 2>&1; then _engine_install; fi
    _engine_start
    if ! _engine_wait; then
        tail -n 15 "$ENGINE_LOG" 2>/dev/null | sed 's/^/    /' >&2 || true
        fail "The container engine was started and does not answer." \
            "Its log: $ENGINE_LOG (with systemd: journalctl -u docker)"
    fi
    ok "started: Docker ${ENGINE_VERSION% *}, API ${ENGINE_VERSION#* }"
}

_engine_install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "No container engine answers, and this is not Debian: install Docker and start it."
    fi
    local packages=(docker.io ca-certificates)
    # Where the kernel has AppArmor on, an engine without its parser starts no container.
    if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ]; then
        packages+=(apparmor)
    fi
    if ! _engine_has_cgroups; then packages+=(cgroupfs-mount); fi
    packages_install "${packages[@]}" ||
        fail "apt could not install: ${packages[*]}" "The whole story: $LOG"
}

_engine_start() {
    if [ -d /run/systemd/system ]; then
        quietly systemctl enable --now docker || true
        return 0
    fi
    # Installing may have started it, or it is on its way up: then waiting is all there is to do.
    if pgrep -x dockerd >/dev/null; then return 0; fi
    if ! _engine_has_cgroups && command -v cgroupfs-mount >/dev/null; then
        quietly cgroupfs-mount || true
    fi
    _engine_forget /var/run/docker.pid dockerd
    _engine_forget /var/run/docker/containerd/containerd.pid containerd
    _engine_forget /var/run/docker/containerd/docker-containerd.pid containerd
    detached "$ENGINE_LOG" dockerd
    _engine_pid=$DETACHED_PID
}

# A machine without systemd may come up with none.
_engine_has_cgroups() {
    grep -qE '^[^ ]+ [^ ]+ cgroup2? ' /proc/mounts
}

# _engine_forget FILE NAME: remove a pid file whose process died; the pid may be another's by now,
# and then the engine would wait for a stranger, or refuse to start.
_engine_forget() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != "$2" ]; then rm -f "$1"; fi
}

_engine_wait() {
    local until=$((SECONDS + ENGINE_SECONDS))
    while [ "$SECONDS" -lt "$until" ]; do
        if engine_answers; then return 0; fi
        if [ -n "$_engine_pid" ] && ! kill -0 "$_engine_pid" 2>/dev/null; then return 1; fi
        sleep 0.3
    done
    return 1
}
