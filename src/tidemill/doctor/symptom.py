"""What the doctor says: symptoms, and beside them what was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Exit(IntEnum):
    """What the command ends with."""

    WELL = 0
    FOUND = 1
    BLIND = 2


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that is not as it should be.

    Attributes:
        code: a stable word for the kind of it.
        about: what it is about: a region, an instance, a node, a file.
        meaning: what is wrong, in a sentence.
        remedy: what to do about it, in another.
        passing: it may be on its way to being right: it counts when a second look finds it as well.
    """

    code: str
    about: str
    meaning: str
    remedy: str
    passing: bool = False


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        facts: what was looked at, as label and text.
        symptoms: what is wrong, in the order of looking.
        done: what was done about it, because the operator asked for it.
        blind: why not everything could be looked at; "" when it could.
    """

    facts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    symptoms: list[Symptom] = field(default_factory=list[Symptom])
    done: list[str] = field(default_factory=list[str])
    blind: str = ""

    @property
    def exit_code(self) -> Exit:
        if self.blind:
            return Exit.BLIND
        return Exit.FOUND if self.symptoms else Exit.WELL
