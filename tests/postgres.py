"""A PostgreSQL of the tests' own: started from the installed programs, gone with whoever started it.

``with postgres_server() as server`` gives a server with its data in a folder of its own, reached by a
socket in that folder and by nothing else. ``server.new_database()`` answers the URL of a database that
is migrated already: a copy of a template, which takes milliseconds. Also usable outside of pytest:
``python -m tests.postgres`` starts one, prints the URL of a database, and stops it at the end of its
input.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from tidemill.store.database import Database
from tidemill.store.migrate import migrate

INSTALLED = Path("/usr/lib/postgresql")  # where Debian puts every version
LEAST_VERSION = 15
PATIENCE = 60.0
MEMORY = Path("/dev/shm")
MEMORY_LEAST = 2 * 2**30
PREFIX = "tidemill-pg-"
OLD_SECONDS = 3600.0
OWNER = "tidemill"
_TEMPLATE = "migrated"


class NoPostgres(RuntimeError):
    """There are no programs to start a server with."""


def programs() -> Path:
    """The folder with ``postgres`` and ``initdb`` of the newest version that is installed."""
    found = {
        int(folder.parent.name): folder
        for folder in INSTALLED.glob("*/bin")
        if folder.parent.name.isdecimal() and (folder / "initdb").exists()
    }
    if found and max(found) >= LEAST_VERSION:
        return found[max(found)]
    elsewhere = shutil.which("initdb")
    if elsewhere is not None:
        return Path(elsewhere).resolve().parent
    raise NoPostgres(
        f"These tests need the programs of PostgreSQL {LEAST_VERSION} or newer, and they are not installed: "
        "run scripts/test, which installs them, or install Debian's package postgresql"
    )


def _account() -> pwd.struct_passwd:
    """Whom it runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _as_somebody() -> list[str]:
    """The words before a command that is to run as that account, and to end when this thread does."""
    words = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return words
    account = _account()
    return [*words, "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]


class PostgresServer:
    """One server. ``kill``, ``stop`` and ``start`` are for tests of servers that go away."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self._durable = durable
        self._programs = programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._template: str | None = None
        account = _account()
        os.chown(folder, account.pw_uid, account.pw_gid)
        # The order of names is English and not that of bytes, as on most servers: who relies on the
        # other finds out here.
        self._run(
            "initdb", "--no-sync", "--auth=trust", f"--username={OWNER}", "--encoding=UTF8",
            "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", str(self.data),
        )  # fmt: skip

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def url(self, database: str) -> URL:
        return URL.create("postgresql", username=OWNER, database=database, query={"host": str(self.folder)})

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*_as_somebody(), str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, check=True, cwd="/", env=_environment(),
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "log_min_duration_statement": "2000",
            "log_lock_waits": "on",
            "deadlock_timeout": "200ms",
        }
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_as_somebody(), str(self._programs / "postgres"), "-D", str(self.data),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(),
                start_new_session=True,  # an interrupt of the tests is theirs to handle
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {self.log[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        done = subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", self.folder, "-U", OWNER, "-d", "postgres"],
            check=False, env=_environment(),
        )  # fmt: skip
        return done.returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends every session and writes all down, SIGQUIT is the end of a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def new_database(self, *, migrated: bool = True) -> str:
        """The URL of a new database, at the newest schema unless told otherwise."""
        if migrated and self._template is None:
            self._template = self._create(_TEMPLATE, "template1")
            database = Database(self.url(_TEMPLATE).render_as_string(hide_password=False))
            try:
                migrate(database)
            finally:
                database.close()
        name = f"test_{secrets.token_hex(6)}"
        self._create(name, _TEMPLATE if migrated else "template1")
        return self.url(name).render_as_string(hide_password=False)

    def copy_of(self, url: str) -> str:
        """The URL of a new database with all that another has, to which nobody may be connected."""
        name = f"test_{secrets.token_hex(6)}"
        self._create(name, str(make_url(url).database))
        return self.url(name).render_as_string(hide_password=False)

    def _create(self, name: str, template: str) -> str:
        self._order(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._order(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def _order(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _sweep(mine: Path) -> None:
    """Remove what those left who were killed long ago: their server went with them, its data did not."""
    old = mine.stat().st_mtime - OLD_SECONDS
    for folder in mine.parent.glob(f"{PREFIX}*"):
        with suppress(OSError, IndexError):  # somebody else's, which goes away by itself
            lock = folder / "data" / "postmaster.pid"
            pid = lock.read_text().split()[0] if lock.exists() else ""
            touched = max(file.stat().st_mtime for file in (folder, folder / "log"))
            if touched < old and not (pid and Path(f"/proc/{pid}").exists()):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A running server; ``durable`` for tests of what is left after a crash. Raises NoPostgres."""
    memory = not durable and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_LEAST
    top = MEMORY if memory else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=top))  # short: the path of a socket has a limit
    _sweep(folder)
    try:
        server = PostgresServer(folder, durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with postgres_server() as running:
        print(running.new_database(), flush=True)
        sys.stdin.read()
