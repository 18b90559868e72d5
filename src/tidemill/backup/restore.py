"""A deployment from a backup: read to its end and proved first, then put in place as one.

Nothing is written over: what is there is refused, or put aside when that is asked for. Whoever kills
it leaves what was there before, or all of the backup (:mod:`tidemill.staging`); the next command that
opens the data folder sees to it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from tidemill import staging
from tidemill.actions.first_login import FILE as FIRST_LOGIN
from tidemill.backup import archive
from tidemill.backup.archive import MANIFEST, Damaged, Manifest, Part
from tidemill.clock import Clock
from tidemill.deployment import DATABASE, only_server, only_user, prepare_folder, url_of
from tidemill.model.errors import Misconfigured
from tidemill.settings import OWN_FILE, Settings, load
from tidemill.staging import Move, Plan
from tidemill.store import backup
from tidemill.store.database import Database, parsed
from tidemill.store.migrate import is_known

KEYS = "keys"
OTHER_OWN_FILE = "tidemill.toml.from-backup"  # where there is a tidemill.toml already


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it.

    Attributes:
        manifest: the backup's.
        folder, database: where it is now; the database without a password.
        aside: where what was there before is, in words.
        other_own_file: the backup's tidemill.toml, when another one was there and stays; or "".
    """

    manifest: Manifest
    folder: Path
    database: str
    aside: Sequence[str]
    other_own_file: str


def restore(
    path: Path,
    settings: Settings,
    config: Path | None,
    given: Mapping[str, Any],
    clock: Clock,
    *,
    replace: bool,
) -> Restored:
    """Make the backup at ``path`` the deployment of the data folder.

    ``config`` and ``given`` are the configuration file and the command line's settings; without a
    file, and without one in the data folder, the backup's own settings are in force.
    Raises Misconfigured (and has changed nothing), Unavailable.
    """
    manifest = verify(path)
    folder = prepare_folder(settings)
    with only_server(folder):
        work = _Restore(path, manifest, folder, config, given, clock.now(), replace=replace)
        staging.begin(folder)
        try:
            return work.run()
        except BaseException:
            staging.settle(folder, _has_committed)
            raise


def settle(folder: Path) -> None:
    """Finish or undo what a restore that was killed had begun. Raises Misconfigured while one goes on."""
    with only_server(folder):
        staging.settle(folder, _has_committed)


def _has_committed(plan: Plan) -> bool:
    database = Database(plan.database)
    try:
        return database.run(lambda connection: backup.wrote(connection, plan.id))
    finally:
        database.close()


def verify(path: Path) -> Manifest:
    """Read a backup to its end and compare all of it with its manifest. Raises Misconfigured."""
    found: list[Part] = []
    said = b""
    with _naming(path), path.open("rb") as file:
        for name, content in archive.parts(file):
            if name == MANIFEST:
                said = content
            else:
                found.append(Part(name, len(content), _hash(content), content.count(b"\n")))
        manifest = archive.manifest(said)
        if not is_known(manifest.revision):
            raise Misconfigured(
                f"it was made by tidemill {manifest.version}, which is newer than this one; install that"
            )
        tables = {table.name: backup.columns_of(table) for table in backup.tables_of(manifest.revision)}
        if manifest.tables != tables:
            raise Damaged("its tables are not those of its version")
        if [_comparable(part) for part in manifest.parts] != [_comparable(part) for part in found]:
            raise Damaged("its parts are not those that its manifest lists")
        if any(part.table not in {"", *tables} for part in found):
            raise Damaged("it has rows of a table that its version does not have")
    return manifest


def _comparable(part: Part) -> tuple[str, int, str, int]:
    return part.name, part.size, part.sha256, part.rows if part.table else 0


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Let what is wrong with a backup say which."""
    try:
        yield
    except Misconfigured as error:
        raise Misconfigured(f"{path} cannot be restored: {error.message}; nothing was changed") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror or error}") from None


class _Restore:
    """One restore, of a backup that was verified, into a folder that is held."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        folder: Path,
        config: Path | None,
        given: Mapping[str, Any],
        now: datetime,
        *,
        replace: bool,
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._folder = folder
        self._making = folder / staging.MAKING
        self._given = {**given, "data_dir": folder}
        self._now = now
        self._replace = replace
        self._id = secrets.token_hex(8)
        self._stamp = f"{now:%Y%m%dT%H%M%SZ}"
        self._aside = folder / f"replaced-{self._stamp}"
        own = config or folder / OWN_FILE
        self._own_file = own if own.exists() else None
        self._schemas: list[str] = []

    def run(self) -> Restored:
        self._write_files()
        staged = self._making / OWN_FILE
        settings = load(self._own_file or (staged if staged.exists() else None), self._given).settings
        label = self._manifest.deployment
        if settings.deployment and label and settings.deployment != label:
            raise Misconfigured(
                f"The backup is of the deployment {label!r}, the setting says {settings.deployment!r}; "
                "a new name would lose sight of what runs"
            )
        url = url_of(settings)
        is_sqlite = url.get_backend_name() == "sqlite"
        moves = [*self._moves_of_files(), *(self._moves_of_sqlite(url) if is_sqlite else ())]
        self._check_room(moves)
        with only_user(url):
            if is_sqlite:
                self._into_sqlite(moves)
            else:
                self._into_postgresql(url, moves)
            staging.commit(self._folder)
        other = any(move.source == OTHER_OWN_FILE for move in moves)
        return Restored(
            manifest=self._manifest,
            folder=self._folder,
            database=url.render_as_string(hide_password=True),
            aside=[str(self._aside), *self._schemas] if self._aside.exists() else self._schemas,
            other_own_file=str(self._folder / OTHER_OWN_FILE) if other else "",
        )

    def _write_files(self) -> None:
        names = set(self._manifest.files())
        (self._making / KEYS).mkdir(mode=0o700)
        for name, content in self._parts():
            if name in names:
                staging.write(self._making / name, content)

    def _parts(self) -> Generator[tuple[str, bytes]]:
        """The parts, which must be those that were verified."""
        known = {part.name: part.sha256 for part in self._manifest.parts}
        with _naming(self._path), self._path.open("rb") as file:
            for name, content in archive.parts(file):
                if name != MANIFEST:
                    if known.get(name) != _hash(content):
                        raise Damaged("it was changed while it was read")
                    yield name, content

    def _moves_of_files(self) -> list[Move]:
        moves = [self._move(KEYS, self._folder / KEYS)]
        moves.append(self._move(FIRST_LOGIN, self._folder / FIRST_LOGIN))
        own, staged = self._own_file, self._making / OWN_FILE
        if own is None:
            moves.append(self._move(OWN_FILE, self._folder / OWN_FILE))
        elif staged.exists() and staged.read_bytes() != own.read_bytes():
            staged.rename(self._making / OTHER_OWN_FILE)
            moves.append(self._move(OTHER_OWN_FILE, self._folder / OTHER_OWN_FILE))
        return moves

    def _moves_of_sqlite(self, url: URL) -> list[Move]:
        target = Path(str(url.database)).resolve()
        if not target.parent.is_dir():
            raise Misconfigured(f"setting database_url names a file in {target.parent}, which is not there")
        if target.parent.stat().st_dev != self._folder.stat().st_dev:
            raise Misconfigured(
                f"{target} and the data folder {self._folder} are on different file systems, and cannot be "
                "put in place as one; restore into a data folder beside the database"
            )
        # What was written ahead of the old one must be gone before the new one comes.
        others = [Path(f"{target}{ending}") for ending in ("-wal", "-shm")]
        return [*(self._move("", other) for other in others), self._move(DATABASE, target)]

    def _move(self, source: str, target: Path) -> Move:
        comes = source == DATABASE or (source != "" and (self._making / source).exists())
        aside = self._aside / target.name
        return Move(source if comes else "", str(target), str(aside) if self._replace else "")

    def _check_room(self, moves: Sequence[Move]) -> None:
        there = [move.target for move in moves if _holds_something(Path(move.target))]
        if there and not self._replace:
            raise Misconfigured(
                f"{there[0]} is there already, and nothing is written over. Restore into another data folder "
                "(--data-dir), or say --replace to have what is there put aside"
            )

    def _into_sqlite(self, moves: Sequence[Move]) -> None:
        file = self._making / DATABASE
        staging.write(file, b"")
        with backup.one_transaction(parsed(f"sqlite:///{file}")) as connection:
            self._load(connection)
        staging.plan(self._folder, Plan(self._id, "", moves))

    def _into_postgresql(self, url: URL, moves: Sequence[Move]) -> None:
        with backup.one_transaction(url) as connection:
            others = backup.users_of(connection)
            if others:
                raise Misconfigured(
                    f"{others} other connections to the database are open; stop every server that uses it"
                )
            if not backup.is_empty(connection):
                if not self._replace:
                    raise Misconfigured(
                        "The database holds something already, and nothing is written over. Let database_url "
                        "name an empty one, or say --replace to have what is there put aside"
                    )
                schema = f"replaced_{self._stamp.lower()}"
                backup.set_aside(connection, schema)
                self._schemas.append(f"the schema {schema} of the database")
            self._load(connection)
            whole = url.render_as_string(hide_password=False)
            staging.plan(self._folder, Plan(self._id, whole, moves))  # what follows is the commit

    def _load(self, connection: Connection) -> None:
        revision = self._manifest.revision
        tables = {table.name: table for table in backup.tables_of(revision)}
        of_part = {part.name: part.table for part in self._manifest.parts}
        backup.begin(connection, revision)
        for name, content in self._parts():
            table = tables.get(of_part[name])
            if table is not None:
                rows = archive.rows_of(self._manifest.tables[table.name], content)
                backup.write(connection, table, rows)
        backup.finish(connection, revision, made_at=self._manifest.made_at, now=self._now, restore=self._id)


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return os.path.lexists(path) and path.stat().st_size > 0
