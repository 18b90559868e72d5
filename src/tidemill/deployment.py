"""The data folder of one deployment: its lock, its database, its keys, its first accounts."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, insert, select

from tidemill.actions.add_user import add_user
from tidemill.actions.first_login import ensure_first_logins
from tidemill.actions.tokens import Tokens
from tidemill.clock import Clock
from tidemill.model.account import User
from tidemill.model.errors import Misconfigured
from tidemill.settings import Configuration, Settings
from tidemill.store.database import Database
from tidemill.store.migrate import migrate
from tidemill.store.schema import facts

DATABASE = "tidemill.db"


def prepare_folder(settings: Settings) -> Path:
    """The data folder, made private if it is new. Raises Misconfigured."""
    folder: Path = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise Misconfigured(
            f"The data folder {folder} cannot be used ({error.strerror}); "
            "choose another with --data-dir, or run as a user who may write there"
        ) from None
    return folder


@contextmanager
def only_server(folder: Path) -> Generator[None]:
    """Hold the data folder for this server alone. Raises Misconfigured when another one has it."""
    path = folder / "server.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Misconfigured(
                f"Another tidemill server (process {holder}) works on {folder}; "
                "stop it first, or give this one another --data-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def open_database(settings: Settings) -> Database:
    """The database, at the schema of this version. Raises Misconfigured, Unavailable."""
    folder = prepare_folder(settings)
    if settings.database_url:
        database = Database(settings.database_url)
    else:
        path = folder / DATABASE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        database = Database(f"sqlite:///{path}")
    migrate(database)
    return database


def make_tokens(settings: Settings) -> Tokens:
    return Tokens(
        folder=settings.data_dir / "keys",
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        seconds=settings.token_seconds,
    )


def initialise(configuration: Configuration, clock: Clock) -> None:
    """Make what a deployment needs once: folder, keys, database, the first accounts."""
    settings = configuration.settings
    database = open_database(settings)
    try:
        make_tokens(settings)
        ensure_first_logins(database, settings.data_dir, clock.now())
    finally:
        database.close()


def add_account(
    configuration: Configuration, clock: Clock, username: str, *, is_admin: bool
) -> tuple[User, str]:
    """Make an account in a deployment, beside a running server or without one.

    Raises Misconfigured where there is no deployment: a mistyped folder is not to become one.
    """
    settings = configuration.settings
    if not settings.database_url and not (settings.data_dir / DATABASE).exists():
        raise Misconfigured(f"There is no deployment in {settings.data_dir}; `tidemill init` makes one")
    database = open_database(settings)
    try:
        return add_user(database, username, is_admin=is_admin, now=clock.now())
    finally:
        database.close()


def deployment_label(database: Database, settings: Settings) -> str:
    """The label of everything this deployment makes; drawn once and kept in the database."""

    def work(connection: Connection) -> str:
        kept = connection.execute(select(facts.c.value).where(facts.c.name == "deployment")).scalar()
        if kept is None:
            kept = settings.deployment or secrets.token_hex(4)
            connection.execute(insert(facts), {"name": "deployment", "value": kept})
        return kept

    kept = database.run(work)
    if settings.deployment and settings.deployment != kept:
        raise Misconfigured(
            f"This data folder belongs to the deployment {kept!r}, the setting says {settings.deployment!r}; "
            "a new name would lose sight of what runs"
        )
    return kept
