"""The data folder of one deployment: its lock, its database, its keys, its first accounts."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from tidemill.actions.add_user import add_user
from tidemill.actions.first_login import ensure_first_logins
from tidemill.actions.operator import find_user
from tidemill.actions.tokens import Tokens
from tidemill.clock import Clock
from tidemill.logs import Logger
from tidemill.model.account import User
from tidemill.model.errors import Misconfigured
from tidemill.model.funds import Funds, funds_of
from tidemill.settings import Configuration, Settings
from tidemill.store import holds, ledger
from tidemill.store.database import Database, parsed
from tidemill.store.migrate import migrate, revision_of
from tidemill.store.schema import facts

DATABASE = "tidemill.db"
LOCK_CHARACTERS = 64
SERVER_LOCK = "server.lock"
MARK = "deployment"  # the file that says whose the disks in the folder are

log = Logger("server")


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
def only_server(folder: Path) -> Generator[str]:
    """Hold the data folder for this server alone; gives the folder's own name, which a copy shares.

    Raises Misconfigured when another one has it.
    """
    with _held(folder / SERVER_LOCK, f"{folder}; stop it first, or give this one another --data-dir") as name:
        yield name


@contextmanager
def only_user(url: URL, *, make: bool = False) -> Generator[None]:
    """Hold a SQLite file for this server alone, whatever folders others have; PostgreSQL is for many.

    To be entered before this process opens the file by SQLite, and left after it closed it. ``make`` has a
    file that is not there made. Raises Misconfigured when another one has it.
    """
    if url.get_backend_name() != "sqlite":
        yield
        return
    file = Path(str(url.database)).resolve()
    what = f"the database {file}; stop it first. For several servers use PostgreSQL (setting database_url)"
    with _held(file.with_name(f"{file.name}.lock"), what), _held_itself(file, make=make):
        yield


@contextmanager
def _held_itself(file: Path, *, make: bool) -> Generator[None]:
    """Hold the file whatever it is called: a hard link and another mount of its folder are the same file.

    SQLite's own locks are fcntl's: on a local file system flock's are others and do not meet them. But
    closing any descriptor of a file drops all of fcntl's that its process has, so this one is open for longer
    than SQLite's. Where both are one kind of lock (NFS) the name alone is held: SQLite would lock itself out.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise Misconfigured(f"{file} cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(
                f"Another tidemill server works on the database {file} under another name (a hard link, or "
                "another mount of its folder); stop it first. For several servers use PostgreSQL (setting "
                "database_url)"
            ) from None
        except OSError:  # a file system without such locks
            pass
        else:
            if _is_one_kind(file):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        yield
    finally:
        os.close(descriptor)


def _is_one_kind(file: Path) -> bool:
    """Whether flock's lock on a file, which we have, keeps fcntl's from it."""
    with file.open("r+b") as other:
        try:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in {errno.EAGAIN, errno.EACCES}
    return False


@contextmanager
def _held(path: Path, what: str) -> Generator[str]:
    """The lock file holds who has it, and a name that is drawn once."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _said(descriptor)[0] or "unknown"
            raise Misconfigured(f"Another tidemill server (process {holder}) works on {what}") from None
        name = _said(descriptor)[1] or secrets.token_hex(8)
        os.pwrite(descriptor, f"{os.getpid()} {name}\n".encode("ascii").ljust(LOCK_CHARACTERS), 0)
        yield name
    finally:
        os.close(descriptor)


def _said(descriptor: int) -> tuple[str, str]:
    """Who has a lock file, and its name; "" for what it does not say."""
    words = os.pread(descriptor, LOCK_CHARACTERS, 0).decode("ascii", "replace").split()
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def open_database(settings: Settings) -> Database:
    """The database, at the schema of this version. Raises Misconfigured, Unavailable."""
    folder = prepare_folder(settings)
    if not settings.database_url:
        os.close(os.open(folder / DATABASE, os.O_RDWR | os.O_CREAT, 0o600))
    url = url_of(settings).render_as_string(hide_password=False)
    database = Database(url, connections=settings.database_connections)
    migrate(database)
    return database


def url_of(settings: Settings) -> URL:
    """Where the database of a deployment lies, or is to lie. Raises Misconfigured."""
    if settings.database_url:
        return parsed(settings.database_url)
    return URL.create("sqlite", database=str(settings.data_dir / DATABASE))


def present_url(settings: Settings) -> URL:
    """Where the database of a deployment that is there lies. Raises Misconfigured where there is none.

    A mistyped folder is not to become a deployment.
    """
    url = url_of(settings)
    is_file = url.get_backend_name() == "sqlite"
    if not settings.data_dir.is_dir() or (is_file and not Path(url.database or "").exists()):
        raise Misconfigured(f"There is no deployment in {settings.data_dir}; `tidemill init` makes one")
    return url


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

    Raises Misconfigured where there is no deployment.
    """
    with _present(configuration.settings) as database:
        return add_user(database, username, is_admin=is_admin, now=clock.now())


def pay_in(
    configuration: Configuration, clock: Clock, username: str, amount: int, *, id: str, memo: str
) -> Funds:
    """Write down what a user paid in, in micro-units, beside a running server or without one; what they own.

    Raises Misconfigured where there is no deployment, NotFound, Conflict.
    """
    from tidemill.actions.credit import credited  # with all that actions are handed: half as long again

    now = clock.now()

    def work(connection: Connection) -> Funds:
        user = find_user(connection, "", username)
        credited(connection, user, amount, id=id, memo=memo, now=now)
        owned, held = ledger.accounts_of(connection, [user.id]), holds.parts_of(connection, [user.id])
        return funds_of(user.id, owned[user.id], held[user.id], now)

    with _present(configuration.settings) as database:
        return database.run(work)


@contextmanager
def _present(settings: Settings) -> Generator[Database]:
    """The database of a deployment that is there, at the newest schema. Raises Misconfigured."""
    database = Database(present_url(settings).render_as_string(hide_password=False))
    try:
        if database.run(revision_of) is None:
            raise Misconfigured("The database is empty; `tidemill init` makes a deployment")
        migrate(database)
        yield database
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

    try:
        kept = database.run(work)
    except IntegrityError:  # another server drew one at the same instant
        kept = database.run(work)
    if settings.deployment and settings.deployment != kept:
        raise Misconfigured(
            f"This data folder belongs to the deployment {kept!r}, the setting says {settings.deployment!r}; "
            "a new name would lose sight of what runs"
        )
    whose = mark(settings.data_dir, kept)
    if whose != kept:
        log.warning("the data folder is another deployment's; its files are left alone", of=whose, here=kept)
    return kept


def mark(folder: Path, label: str) -> str:
    """Mark a data folder as the deployment's, unless it is marked already; whose it is.

    Whoever loses the database and begins anew keeps the users' disks: they are marked as another's.
    """
    path = folder / MARK
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text("utf-8").strip() or label
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{label}\n")
    return label
