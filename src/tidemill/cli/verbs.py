"""What is done to instances that are there: ``stop``, ``start``, ``restart``, ``rm``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.completion import instance_names
from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.instances import name_of
from tidemill.cli.options import SelfOption, ServerOption
from tidemill.cli.resolving import own_or
from tidemill.cli.telling import money

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.wire.instances import InstanceRow
    from tidemill.wire.quote import QuoteInfo

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Names, ids, or the beginnings of them; none with --self.",
        autocompletion=instance_names,
        show_default=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is done.")]
Patience = Annotated[
    float, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long --wait waits at most.")
]
MINUTES_10 = 600.0


def stop(
    names: Names = None,
    wait: Wait = False,
    timeout: Patience = MINUTES_10,
    server: ServerOption = None,
    own: SelfOption = False,
) -> None:
    """Stop instances; their disks are kept.

    A data disk is charged for as long as it is kept.
    """
    with connected(server, own=own) as client:
        chosen = _meant(client, names, server, own=own)
        _each(chosen, "stopping", client.instances.stop)
        if wait:
            _each(chosen, "stopped", lambda id: client.instances.wait_until_stopped(id, timeout=timeout))


def start(
    names: Names = None,
    wait: Wait = False,
    timeout: Patience = MINUTES_10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    server: ServerOption = None,
) -> None:
    """Start stopped instances again."""
    with connected(server) as client:
        chosen = _meant(client, names, server, own=False)
        if dry_run:
            for row in chosen:
                quote = client.instances.quote_start(row.instanceMetadata.instanceId)
                typer.echo(f"{name_of(row)}: {told(quote)}")
            return
        _each(chosen, "starting", client.instances.start)
        if wait:
            _each(chosen, "running", lambda id: client.instances.wait_until_running(id, timeout=timeout))


def restart(
    names: Names = None,
    wait: Wait = False,
    timeout: Patience = MINUTES_10,
    server: ServerOption = None,
    own: SelfOption = False,
) -> None:
    """Stop and start instances."""
    with connected(server, own=own) as client:
        chosen = _meant(client, names, server, own=own)
        _each(chosen, "restarting", client.instances.restart)
        if wait:
            _each(chosen, "running", lambda id: client.instances.wait_until_running(id, timeout=timeout))


def rm(
    names: Names = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = None,
    own: SelfOption = False,
) -> None:
    """End instances for good, with their disks.

    What is on them is lost.
    """
    with connected(server, own=own) as client:
        chosen = _meant(client, names, server, own=own)
        if not yes:
            _confirm(chosen)
        _each(chosen, "ending", client.instances.terminate)


def told(quote: QuoteInfo) -> str:
    """A quote in one line."""
    if quote.termTotal is not None:
        price = f"{money(quote.termTotal, quote.currency)} for the term"
    else:
        now = quote.price if quote.priceNow is None else quote.priceNow
        price = f"{money(now, quote.currency)} per hour now"
    disk = f", and {money(quote.diskPerHour)} per hour for its disk" if quote.diskPerHour else ""
    return f"{price}{disk}; {money(quote.hold)} of {money(quote.available)} would be set aside"


def _meant(client: Client, names: list[str] | None, server: str | None, *, own: bool) -> list[InstanceRow]:
    """All of them, before anything is done to one. Raises Failure."""
    if own or not names:
        if names:
            raise Failure("--self is this instance: say no other", exit=Exit.USAGE, code="usage")
        return [own_or(client, None, server, own=own)]
    found = [own_or(client, name, server, own=False) for name in names]
    return list({row.instanceMetadata.instanceId: row for row in found}.values())


def _each(rows: list[InstanceRow], word: str, verb: Callable[[str], object]) -> None:
    """Do it to each; what fails does not keep it from the others, and the first failure is the command's."""
    from tidemill.client.errors import ClientError

    failed: list[ClientError] = []
    for row in rows:
        try:
            verb(row.instanceMetadata.instanceId)
        except ClientError as error:
            if len(rows) > 1:
                typer.echo(f"{name_of(row)}: {error}", err=True)
            failed.append(error)
        else:
            typer.echo(f"{name_of(row)}: {word}", err=True)
    if failed:
        raise failed[0]


def _confirm(rows: list[InstanceRow]) -> None:
    """Raises Failure where nobody can be asked, typer.Exit where they say no."""
    if not sys.stdin.isatty():
        raise Failure(
            "Nobody is there to be asked",
            exit=Exit.USAGE,
            code="usage",
            next="Say --yes to end them and lose what is on their disks",
        )
    what = ", ".join(f"{name_of(row)} ({row.instanceRuntimeInfo.status})" for row in rows)
    typer.echo(f"End {what}, and lose what is on the disks? [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        typer.echo("Nothing was done.", err=True)
        raise typer.Exit(Exit.FAILED)
