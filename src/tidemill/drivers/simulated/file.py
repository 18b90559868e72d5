"""A simulated engine that is kept in a file, so that it outlives a server and many may share it.

Each process has the whole engine in memory and follows the file: what another process changed is read
before anything is looked at, and what is changed here is written before anybody is answered. Changes
are made by one process at a time, under the file's lock. A killed server takes nothing with it but its
requests that were still on their way.

Secrets (host keys, scripts, variables) do not go into the file, and neither does the journal.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

from tidemill.drivers.contract import Device, Node, Port, Unreachable, Workload
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.objects import Kind, Made
from tidemill.drivers.simulated.space import Clash, Space, Violation
from tidemill.model.observation import Phase, Seen

NAME = "engine.db"
LOCK_SECONDS = 5.0  # how long another process may hold the file
POLL = 0.25  # seconds between looks for what other processes changed
KEPT_BEHIND = 100_000  # changes: a process that is further behind reads everything anew
LEFT_OUT = "(not kept)"

SCHEMA = """
CREATE TABLE IF NOT EXISTS things (
    kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT, version INTEGER NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS things_version ON things (version);
"""
CHANGES = "SELECT kind, id, body, version FROM things WHERE version > ? ORDER BY version"
WRITE = (
    "INSERT INTO things VALUES (?, ?, ?, ?) "
    "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, version = excluded.version"
)
FORGET = "DELETE FROM things WHERE body IS NULL AND version < (SELECT max(version) FROM things) - ?"

SEEN = tuple(field.name for field in fields(Seen))
WORKLOAD = tuple(
    field.name
    for field in fields(Workload)
    if field.name not in {"ports", "devices", "host_key", "init_script", "env", "access"}
)


class EngineInFile(Engine):
    """As :class:`Engine`, kept in ``folder``. Raises Unreachable when the file cannot be used."""

    poll = POLL

    def __init__(
        self, folder: Path, nodes: Sequence[Node], *, now: Callable[[], float], cpu_overcommit: float = 1.0
    ) -> None:
        super().__init__(nodes, now=now, cpu_overcommit=cpu_overcommit, keep_journal=False)
        self._path = folder / NAME
        self._configured = frozenset(self.spaces)
        self._changed: dict[tuple[Kind, str], None] = {}
        self._version = 0  # of the last change that is known here
        self._seen_version = -1  # SQLite's word for "somebody else wrote"
        with self._in_contract_words():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            self._file = sqlite3.connect(
                self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=OFF")  # no process that dies loses anything
            self._file.executescript(SCHEMA)
            self._file.execute(FORGET, [KEPT_BEHIND])
        self.look()

    @contextmanager
    def turn(self) -> Generator[None]:
        with self._in_contract_words():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._follow()
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
        try:
            self.settle()
            yield
        finally:  # what was done before an error is done
            with self._in_contract_words():
                self._save()

    def look(self) -> None:
        with self._in_contract_words():
            self._follow()
        if self.next_due() == 0.0:
            with self.turn():
                pass

    def keep(self, kind: Kind, id: str) -> None:
        self._changed[kind, id] = None

    def close(self) -> None:
        self._file.close()

    def _follow(self) -> None:
        """Take over what other processes wrote."""
        seen_version: int = self._file.execute("PRAGMA data_version").fetchone()[0]
        if seen_version == self._seen_version:
            return
        rows = self._file.execute(CHANGES, [self._version]).fetchall()
        if rows and rows[-1][3] - self._version > KEPT_BEHIND:  # of some that are gone nothing is told
            self._forget()
            rows = self._file.execute(CHANGES, [self._version]).fetchall()
        for kind, id, body, version in rows:
            self._take_over(kind, id, None if body is None else json.loads(body))
            self._version = version
        self._seen_version = seen_version
        self._changed.clear()  # it is written already

    def _forget(self) -> None:
        """What is in memory is not what the file says: read it from the start."""
        for id in list(self.made):
            self.drop(id)
        self.away.clear()
        self._changed.clear()
        self._version, self._seen_version = 0, -1

    def _take_over(self, kind: Kind, id: str, body: Any) -> None:
        if kind == "violation":
            del self.violations[int(id) - 1 :]
            self.violations.append(_violation(body))
        elif kind == "lost":
            self._know(id)
            self.lose(id, lost=body or id not in self._configured)
        elif kind == "away":
            self.away.pop(id, None)
            if body is not None:
                self.away[id] = _made(body)
        else:
            if id in self.made:
                self.drop(id)
            if body is not None:
                made = _made(body)
                self._know(made.node)
                self.put(made)
                if made.ahead:
                    self.schedule(made.ahead[0][0], partial(self.go_on, id))

    def _know(self, node: str) -> None:
        """A machine that the file speaks of and that is configured no longer does not answer."""
        if node and node not in self.spaces:
            self.spaces[node] = Space(Node(node, 0, 0, 0), 1)
            self.spaces[node].lost = True

    def _save(self) -> None:
        try:
            if self._changed:
                self._version += 1
                rows = [(kind, id, self._body(kind, id), self._version) for kind, id in self._changed]
                self._changed.clear()
                self._file.executemany(WRITE, rows)
            self._file.execute("COMMIT")
        except sqlite3.Error:
            self._forget()
            self._file.execute("ROLLBACK")
            raise

    def _body(self, kind: Kind, id: str) -> str | None:
        body: object
        if kind == "violation":
            found = self.violations[int(id) - 1]
            clash = found.clash
            body = [found.at, found.node, found.id, clash.what, clash.message, clash.holder]
        elif kind == "lost":
            body = self.spaces[id].lost
        else:
            made = (self.made if kind == "object" else self.away).get(id)
            if made is None:
                return None
            body = _written(made)
        return json.dumps(body, separators=(",", ":"))

    @contextmanager
    def _in_contract_words(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unreachable(f"the simulated engine's file {self._path} cannot be used: {error}") from error


def _written(made: Made) -> dict[str, object]:
    workload = made.workload
    return {
        "workload": {name: getattr(workload, name) for name in WORKLOAD},
        "ports": [(port.port, port.node_port) for port in workload.ports],
        "devices": [(device.id, device.name, device.paths) for device in workload.devices],
        "has_init": bool(workload.init_script),
        "seen": _seen_written(made.seen),
        "starts": made.starts,
        "node": made.node,
        "ahead": [(due, _seen_written(seen)) for due, seen in made.ahead],
        "uninvited": made.uninvited,
    }


def _made(body: dict[str, Any]) -> Made:
    values = body["workload"] | {
        name: tuple(body["workload"].get(name, ())) for name in ("authorized_keys", "notices")
    }
    return Made(
        Workload(
            **values,
            ports=tuple(Port(*port) for port in body["ports"]),
            devices=tuple(Device(id, name, tuple(paths)) for id, name, paths in body["devices"]),
            host_key=b"",
            init_script=LEFT_OUT if body["has_init"] else "",
        ),
        _seen(body["seen"]),
        body["starts"],
        body["node"],
        tuple((due, _seen(seen)) for due, seen in body["ahead"]),
        body["uninvited"],
    )


def _seen_written(seen: Seen) -> list[object]:
    return [getattr(seen, name) for name in SEEN]


def _seen(body: list[Any]) -> Seen:
    values: dict[str, Any] = {}
    for name, value in zip(SEEN, body, strict=True):
        values[name] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
    values["phase"] = Phase(values["phase"])
    return Seen(**values)


def _violation(body: list[Any]) -> Violation:
    at, node, id, what, message, holder = body
    return Violation(at, node, id, Clash(what, message, holder))
