"""What somebody inside a running instance should know before it happens: that it will be stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

MONEY = "money"  # what its owner has lasts for few hours
TERM = "term"  # the time that was bought in advance ends


@dataclass(frozen=True, slots=True)
class Notice:
    """``kind`` is one word, of which an instance has at most one notice; ``at`` is since when it holds.

    ``text`` is a sentence for people.
    """

    kind: str
    at: datetime
    text: str

    @property
    def line(self) -> str:
        """As it is shown inside: RFC 3339 in whole seconds of UTC, the kind, and the text without breaks."""
        words = " ".join(self.text.split())
        return f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} {self.kind} {words}"


def with_notice(notices: Sequence[Notice], kind: str, text: str | None, at: datetime) -> tuple[Notice, ...]:
    """The notices when ``text`` is what holds of ``kind``; None for nothing.

    One that says the same already stays with the instant at which it began to hold.
    """
    if any((each.kind, each.text) == (kind, text) for each in notices):
        return tuple(notices)
    others = tuple(each for each in notices if each.kind != kind)
    return others if text is None else (*others, Notice(kind, at, text))
