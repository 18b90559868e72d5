# shellcheck shell=bash
# The programs of PostgreSQL for the tests, which start a server of their own with them (tests/postgres.py).

# shellcheck disable=SC2034 # read by the callers
PACKAGE_OF_POSTGRES=initdb:postgresql
_POSTGRES_CLUSTERS=/etc/postgresql-common/createcluster.conf

# Debian has them on nobody's PATH. The newest last version wins.
for _folder in /usr/lib/postgresql/*/bin; do
    if [ -x "$_folder/initdb" ]; then PATH="$_folder:$PATH"; fi
done

# postgres_ensure: the programs are there, or installed.
postgres_ensure() {
    if ! command -v initdb >/dev/null; then _postgres_install; fi
    ok "$(initdb --version)"
}

# Installed without the server that Debian would make and start: nothing is to listen afterwards.
_postgres_install() {
    local folder
    packages_install postgresql-common ||
        fail "apt could not install: postgresql-common" "The whole story: $LOG"
    (
        cp -p "$_POSTGRES_CLUSTERS" "$_POSTGRES_CLUSTERS.before"
        trap 'mv "$_POSTGRES_CLUSTERS.before" "$_POSTGRES_CLUSTERS"' EXIT
        printf 'create_main_cluster = false\n' >>"$_POSTGRES_CLUSTERS"
        packages_install postgresql
    ) || fail "apt could not install: postgresql" "The whole story: $LOG"
    for folder in /usr/lib/postgresql/*/bin; do PATH="$folder:$PATH"; done
}
