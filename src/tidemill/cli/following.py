"""Following a launch to its end, and what Ctrl-C does to it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, NoReturn

import typer

from tidemill.cli.asking import agrees, is_somebody_there
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.order import Body
from tidemill.cli.progress import INIT_SCRIPT, Progress, progress, shown

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.wire.instances import EventRow, InstanceRow

RUNNING = "Running"
INIT_ENDED, INIT_FAILED = "initScriptEnded", "initScriptFailed"
FIRST_LOOK, LONGEST_LOOK = 0.2, 3.0  # seconds between looks at a running init script


@dataclass(frozen=True, slots=True)
class Launch:
    """One that was asked for. ``cancels``: Ctrl-C ends it, without a question."""

    client: Client
    id: str
    name: str
    cancels: bool

    @property
    def word(self) -> str:
        """Its name, as a shell takes it."""
        return shlex.quote(self.name)


def begun(client: Client, body: Body, *, cancels: bool, knows_keys: bool) -> Launch:
    """Ask for it. Where that is interrupted, the same key says which one was made, if any.

    Without ``knows_keys`` the service cannot say it, and nothing is asked a second time.
    """
    from uuid import uuid4

    key, name = str(uuid4()), str(body.get("name"))
    try:
        return Launch(client, client.instances.create(body, idempotency_key=key), name, cancels)
    except KeyboardInterrupt:
        if not knows_keys:
            raise
        interrupted(Launch(client, client.instances.create(body, idempotency_key=key), name, cancels))


def followed(launch: Launch, *, has_init: bool) -> InstanceRow:
    """The instance once it runs, and with ``has_init`` once its init script has ended.

    Raises Failure with the reason where it does not come to run; typer.Exit after Ctrl-C.
    """
    try:
        with progress(launch.name) as bars:
            row = None
            for row in launch.client.instances.watch(launch.id):
                if not (has_init and row.instanceRuntimeInfo.status == RUNNING):
                    shown(bars, row)
            assert row is not None  # noqa: S101 - watch gives one at least
            if row.instanceRuntimeInfo.status != RUNNING:
                raise _failed(launch, row)
            if has_init:
                _until_init_ended(launch, bars)
            return row
    except KeyboardInterrupt:
        interrupted(launch)


def init_failure(launch: Launch) -> str:
    """How the init script of this start went wrong; "" where it did not."""
    ended = _init_end(list(launch.client.instances.events(launch.id)))
    return ended.message if ended is not None and ended.event == INIT_FAILED else ""


def interrupted(launch: Launch) -> NoReturn:
    """After Ctrl-C: it goes on, or is ended when somebody says so, or presses Ctrl-C again."""
    ends = launch.cancels
    if not ends and is_somebody_there():
        typer.echo("", err=True)
        try:
            ends = agrees(f"The launch of {launch.name} goes on. Cancel it?")
        except KeyboardInterrupt:
            typer.echo("", err=True)
            ends = True
    if ends:
        _end(launch)
        typer.echo(f"{launch.name} is cancelled", err=True)
    else:
        typer.echo(
            f"The launch of {launch.name} goes on by itself. Cancel it with: tidemill rm {launch.word}",
            err=True,
        )
    raise typer.Exit(int(Exit.INTERRUPTED))


def _end(launch: Launch) -> None:
    from tidemill.client.errors import NotFound

    try:
        launch.client.instances.terminate(launch.id)
    except NotFound:
        return


def _failed(launch: Launch, row: InstanceRow) -> Failure:
    runtime = row.instanceRuntimeInfo
    reason = runtime.diagnosisMessage or runtime.diagnosisReason or "nobody said why"
    gone = runtime.status == "Released"
    return Failure(
        f"{launch.name} is {runtime.status}: {reason}",
        code="launchFailed",
        next="" if gone else f"End it with: tidemill rm {launch.word}",
    )


def _until_init_ended(launch: Launch, bars: Progress) -> None:
    pause, after, waiting = FIRST_LOOK, 0, Event()
    while True:
        bars.show(INIT_SCRIPT)
        new = list(launch.client.instances.events(launch.id, after=after))
        if _init_end(new) is not None:
            bars.show(RUNNING)
            return
        if new:
            after = new[-1].seq
            if new[-1].to != RUNNING:
                raise Failure(
                    f"{launch.name} is {new[-1].to}, and its init script had not ended", code="launchFailed"
                )
        waiting.wait(pause)
        pause = min(LONGEST_LOOK, pause * 1.3)


def _init_end(events: list[EventRow]) -> EventRow | None:
    return next((row for row in events if row.event in {INIT_ENDED, INIT_FAILED}), None)
