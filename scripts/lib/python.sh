# shellcheck shell=bash
# The locked Python environment in .venv, made by uv.

UV_VERSION='uv>=0.13,<1'
uv="uv"
# Some machines set it; then every start of the server compiles it anew, and takes three times as long.
unset PYTHONDONTWRITEBYTECODE

_uv_home() {
    printf '%s/tidemill/uv' "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}"
}

# uv_works: whether there is a uv that starts: on PATH, or the private one. Sets $uv.
uv_works() {
    local candidate
    for candidate in uv "$(_uv_home)/bin/uv"; do
        if "$candidate" --version >/dev/null 2>&1; then
            uv="$candidate"
            return 0
        fi
    done
    return 1
}

_uv_ensure() {
    if uv_works; then return 0; fi
    quietly python3 -m venv "$(_uv_home)" &&
        quietly "$(_uv_home)/bin/pip" install --disable-pip-version-check "$UV_VERSION" &&
        uv_works
}

# python_ensure [UV SYNC OPTION...]: bring $REPO/.venv to what uv.lock says.
python_ensure() {
    _uv_ensure || fail "uv could not be installed; is the Python package index reachable?" \
        "The whole story: $LOG"
    # An active environment of the caller is not the one to change.
    quietly env -u VIRTUAL_ENV "$uv" sync --frozen --project "$REPO" "$@" ||
        fail "The Python environment could not be made from uv.lock." "The whole story: $LOG"
    ok "as uv.lock says, in $REPO/.venv"
}
