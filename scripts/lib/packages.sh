# shellcheck shell=bash
# The programs we need and the Debian packages they come in.
#
# Looked for by command and not by package, so that a machine of another distribution that has
# them all is as good as Debian.

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# command:package; python3-venv is asked for by its module.
# shellcheck disable=SC2034 # read by the callers
PACKAGES_TO_RUN=(
    python3:python3
    ssh:openssh-client
    curl:curl
    mkfs.ext4:e2fsprogs
    mount:mount
    mmdebstrap:mmdebstrap
    flock:util-linux
    pgrep:procps
)
# shellcheck disable=SC2034
PACKAGES_TO_TEST=("${PACKAGES_TO_RUN[@]}" git:git rsync:rsync shellcheck:shellcheck)

_missing_commands=()
_missing_packages=()

# packages_look PAIR...: fill in what is missing. Changes nothing.
packages_look() {
    _missing_commands=()
    _missing_packages=()
    local pair
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null 2>&1; then
            _missing_commands+=("${pair%%:*}")
            _missing_packages+=("${pair#*:}")
        fi
    done
    # The guest is built from Debian packages on any system; nothing can bring these to a Debian.
    for pair in apt-get dpkg-deb; do
        if ! command -v "$pair" >/dev/null 2>&1; then _missing_commands+=("$pair"); fi
    done
    # uv is put into a private environment when there is none, and that takes Python's own pip.
    if uv_works; then return 0; fi
    if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
        _missing_commands+=("python3 -m venv")
        _missing_packages+=(python3-venv)
    fi
    if command -v apt-get >/dev/null && [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
        _missing_commands+=("certificates of authorities")
        _missing_packages+=(ca-certificates)
    fi
}

# packages_possible: whether what is missing can be had; says what to do when it cannot.
# Changes nothing.
packages_possible() {
    if [ "${#_missing_commands[@]}" -eq 0 ]; then return 0; fi
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "This is not Debian (no apt-get). Install these, and run it again:" \
            "    ${_missing_commands[*]}" \
            "What goes into every instance is built from Debian packages, so apt-get and dpkg-deb, with" \
            "Debian's sources, are needed on any system. Nothing was changed."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        fail "Missing: ${_missing_commands[*]}" \
            "Install them, or run this as root:" \
            "    sudo apt-get install ${_missing_packages[*]}" \
            "Nothing was changed."
    fi
}

# packages_install PACKAGE...: with apt; brings its lists up to date when that is what it takes.
packages_install() {
    local install=(
        env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
        apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
    )
    printf '$ %s\n' "${install[*]}" >>"$LOG"
    if "${install[@]}" >>"$LOG" 2>&1 </dev/null; then return 0; fi
    quietly apt-get -q -o DPkg::Lock::Timeout=300 update || return 1
    quietly "${install[@]}"
}

# packages_ensure PAIR...: everything there, or installed.
packages_ensure() {
    packages_look "$@"
    if [ "${#_missing_commands[@]}" -eq 0 ]; then
        ok "all there"
        return 0
    fi
    packages_possible
    packages_install "${_missing_packages[@]}" ||
        fail "apt could not install: ${_missing_packages[*]}" "The whole story: $LOG"
    ok "installed ${_missing_packages[*]}"
}
