"""Several files put in place of others as one: whoever is killed meanwhile leaves all of it or nothing.

What is to come is made whole in a folder ``restoring``. Its renaming to ``restored`` is the instant at
which it counts; from then on the moves that its plan lists are made, and made again from wherever they
were cut short. Where a database elsewhere is part of it, that database's commit is the instant, and
it is asked whether it came.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MAKING = "restoring"
READY = "restored"
PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Move:
    """``source`` (in the folder; "" for nothing) comes to where ``target`` was.

    What is at ``target`` goes to ``aside``; it is removed by nobody.
    """

    source: str
    target: str
    aside: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``id`` names it to the database at ``database``, which has it once it has committed; "" for none."""

    id: str
    database: str
    moves: Sequence[Move]


def is_pending(folder: Path) -> bool:
    """Whether something was begun here and has not ended."""
    return (folder / MAKING).exists() or (folder / READY).exists()


def begin(folder: Path) -> Path:
    """An empty private folder to make it in."""
    making = folder / MAKING
    making.mkdir(mode=0o700)
    return making


def write(file: Path, content: bytes) -> None:
    """A private file that survives a power cut, once :func:`plan` was called too."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def plan(folder: Path, what: Plan) -> None:
    """Write down what is to be moved; the last thing before it counts."""
    write(folder / MAKING / PLAN, json.dumps(asdict(what)).encode())
    for inside, _, _ in os.walk(folder / MAKING):
        _sync(Path(inside))
    _sync(folder)


def commit(folder: Path) -> None:
    """From here on it counts. Then make the moves."""
    (folder / MAKING).rename(folder / READY)
    _sync(folder)
    _carry_out(folder)


def settle(folder: Path, has_committed: Callable[[Plan], bool]) -> None:
    """Finish what counts and undo what does not, after whoever began it is gone."""
    if (folder / READY).exists():
        _carry_out(folder)
    making = folder / MAKING
    if not making.exists():
        return
    known = _read(making / PLAN)
    if known is not None and known.database and has_committed(known):
        commit(folder)
        return
    shutil.rmtree(making)
    _sync(folder)


def _read(file: Path) -> Plan | None:
    try:
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):  # it was being written
        return None
    return Plan(said["id"], said["database"], [Move(**move) for move in said["moves"]])


def _carry_out(folder: Path) -> None:
    ready = folder / READY
    known = _read(ready / PLAN)
    # The plan goes last: a folder without one holds nothing that is waited for.
    if known is not None:
        touched = {folder}
        for move in known.moves:
            touched |= {Path(move.target).parent, *_put_aside(ready, move)}
        for move in known.moves:
            if move.source and os.path.lexists(ready / move.source):
                os.rename(ready / move.source, move.target)
        for inside in touched:
            _sync(inside)
        (ready / PLAN).unlink()
        _sync(ready)
    shutil.rmtree(ready)
    _sync(folder)


def _put_aside(ready: Path, move: Move) -> set[Path]:
    """Make room for what has not come to its place yet."""
    is_placed = bool(move.source) and not os.path.lexists(ready / move.source)
    if is_placed or not move.aside or not os.path.lexists(move.target):
        return set()
    aside = Path(move.aside)
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    os.rename(move.target, aside)
    return {aside.parent}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
