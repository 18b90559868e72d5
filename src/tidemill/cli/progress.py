"""A launch as it goes on: phases with their time on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import typer

if TYPE_CHECKING:
    from tidemill.wire.instances import InstanceRow

INIT_SCRIPT = "InitScript"  # after the statuses: the instance can be entered already
PHASES = {
    "Initializing": "Finding a place",
    "PullingImage": "Pulling the image",
    "Starting": "Starting",
    "Restarting": "Restarting",
    "Stopping": "Stopping",
    INIT_SCRIPT: "Init script",
    "Running": "Running",
}
WHOLE = 100  # percent


class Progress(Protocol):
    """``show`` is told of every change. ``percent`` is None where nobody knows."""

    def show(self, phase: str, percent: int | None = None, note: str = "") -> None: ...


def progress(name: str) -> AbstractContextManager[Progress]:
    """What is shown on standard error, for as long as the block lasts."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bars()
    return nullcontext(Lines(name))


def shown(to: Progress, row: InstanceRow) -> None:
    """Tell of an instance."""
    runtime = row.instanceRuntimeInfo
    place = runtime.queuePosition
    note = f"place {place} of the queue" if place is not None else ""
    if not note and runtime.diagnosisReason:
        note = runtime.diagnosisMessage or runtime.diagnosisReason
    to.show(runtime.status, runtime.progress, note)


class Lines:
    """A line for each change."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ""

    def show(self, phase: str, percent: int | None = None, note: str = "") -> None:
        words = [PHASES.get(phase, phase), "" if percent is None else f"{percent}%", note]
        line = " ".join(word for word in words if word)
        if line != self._last:
            self._last = line
            typer.echo(f"{self._name}: {line}", err=True)


class Bars(AbstractContextManager["Bars"]):
    """A line for each phase, with a bar and the time it took."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )
        self._phase = ""
        self._task: Any = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, phase: str, percent: int | None = None, note: str = "") -> None:
        if phase != self._phase:
            self._finish()
            self._phase = phase
            if phase == "Running":
                return
            self._task = self._bars.add_task(PHASES.get(phase, phase), total=None, note="")
        if self._task is not None:
            total = None if percent is None else WHOLE
            self._bars.update(self._task, total=total, completed=percent or 0, note=note)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=WHOLE, completed=WHOLE, note="")
            self._bars.stop_task(self._task)
            self._task = None
