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
    raise Failure(f"No {noun} is called {said!r}; {there}", exit=Exit.NOT_FOUND, code="unknownName")


def instance(client: Client, said: str, *, released: bool = False) -> InstanceRow:
    """The instance that is meant; a whole id costs one small question, a name the list. Raises Failure."""
    if said.startswith(INSTANCE_PREFIX) and len(said) == len(INSTANCE_PREFIX) + 36:
        return client.instances.get(said)
    return resolved(
        said,
        client.instances.list(include_released=released),
        noun="instance",
        id=lambda row: row.instanceMetadata.instanceId,
        name=lambda row: row.instanceMetadata.name or row.instanceMetadata.instanceName,
        prefix=INSTANCE_PREFIX,
    )


def _listed(things: list[T], id: Callable[[T], str], name: Callable[[T], str]) -> str:
    shown = [f"{name(each)} ({id(each)})" for each in things[:SHOWN]]
    more = len(things) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
