"""What an audit counted, and what did not agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

KEPT = 1000  # differences that are told one by one; all are counted


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the ledger and the history do not agree on."""

    about: str
    meaning: str


@dataclass(slots=True)
class Findings:
    """What was compared (``counts``, by word; ``sums`` of our own accounts in micro-units) and differs.

    ``many`` is the number of all differences, of which the first are kept.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    sums: dict[str, int] = field(default_factory=dict[str, int])
    differences: list[Difference] = field(default_factory=list[Difference])
    many: int = 0

    def differs(self, about: str, meaning: str) -> None:
        self.many += 1
        if len(self.differences) < KEPT:
            self.differences.append(Difference(about, meaning))
