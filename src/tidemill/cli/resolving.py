"""From what somebody typed to the one thing that is meant: name, id, or a unique beginning of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from tidemill.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.wire.instances import InstanceRow

T = TypeVar("T")
SHOWN = 8  # candidates that an error names
INSTANCE_PREFIX = "notebook-"
UNKNOWN = "unknownName"


def resolved(
    said: str,
    things: Iterable[T],
    *,
    noun: str,
    id: Callable[[T], str],
    name: Callable[[T], str],
    prefix: str = "",
) -> T:
    """The one of ``things`` that ``said`` means.

    A whole id comes first, then a whole name, then the beginning of an id (also without its ``prefix``) or a
    name. Raises Failure for none (naming what there is) and for several (naming those).
    """
    all = list(things)
    steps: tuple[Callable[[T], bool], ...] = (
        lambda each: id(each) == said,
        lambda each: name(each) == said,
        lambda each: (
            bool(said) and (name(each).startswith(said) or id(each).startswith((said, prefix + said)))
        ),
    )
    for step in steps:
        found = [each for each in all if step(each)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Failure(
                f"{said!r} is not the only {noun} of that name: {_listed(found, id, name)}",
                exit=Exit.NOT_FOUND,
                code="ambiguousName",
                next="Say its id",
            )
    there = f"there is {_listed(all, id, name)}" if all else f"there is no {noun}"
    raise Failure(f"No {noun} is called {said!r}; {there}", exit=Exit.NOT_FOUND, code=UNKNOWN)


def instance(client: Client, said: str, *, released: bool = False) -> InstanceRow:
    """The instance that is meant; a whole id costs one small question, a name the list. Raises Failure.

    With ``released`` also one that has ended, where none that is there is meant.
    """
    if said.startswith(INSTANCE_PREFIX) and len(said) == len(INSTANCE_PREFIX) + 36:
        return client.instances.get(said)
    try:
        return _of(client.instances.list(), said)
    except Failure as error:
        if not released or error.code != UNKNOWN:
            raise
    return _of(client.instances.list(include_released=True), said)


def _of(rows: Iterable[InstanceRow], said: str) -> InstanceRow:
    return resolved(
        said,
        rows,
        noun="instance",
        id=lambda row: row.instanceMetadata.instanceId,
        name=lambda row: row.instanceMetadata.name or row.instanceMetadata.instanceName,
        prefix=INSTANCE_PREFIX,
    )


def own_or(
    client: Client, said: str | None, server: str | None, *, own: bool, released: bool = False
) -> InstanceRow:
    """The instance of that name, or with ``--self`` the one that this runs in. Raises Failure."""
    if own:
        if said is not None:
            raise Failure("--self is this instance: say no other", exit=Exit.USAGE, code="usage")
        from tidemill.cli.access import chosen

        return client.instances.get(chosen(server, own=True).instance)
    if said is None:
        raise Failure(
            "Say which instance", exit=Exit.USAGE, code="usage", next="They are listed by: tidemill ls"
        )
    return instance(client, said, released=released)


def _listed(things: list[T], id: Callable[[T], str], name: Callable[[T], str]) -> str:
    shown = [f"{name(each)} ({id(each)})" for each in things[:SHOWN]]
    more = len(things) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
