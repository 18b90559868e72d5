"""``tidemill apikey``: keys for programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from tidemill.cli.connection import connected
from tidemill.cli.lazy import commands
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_one, show_rows
from tidemill.cli.resolving import resolved
from tidemill.cli.table import Column
from tidemill.cli.telling import ago
from tidemill.model.account import Scope

app = commands("API keys: what programs prove themselves with.")


@app.command("list")
def list_(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """List the account's API keys; their secrets are not known to anybody."""
    from tidemill.clock import SystemClock

    now = SystemClock().now()
    with connected(server) as client:
        rows = client.account.api_keys()
    columns = [
        Column("NAME", lambda row: row.name),
        Column("ID", lambda row: row.id, firm=True),
        Column("BEGINS", lambda row: row.hint),
        Column("MAY DO", lambda row: row.scope.value),
        Column("MADE", lambda row: ago(row.createdAt, now), right=True),
        Column("ENDS", lambda row: ago(row.expiresAt, now) if row.expiresAt else "never", right=True),
    ]
    show_rows(rows, columns, output, name=lambda row: row.id, empty="There is no API key.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[Scope, typer.Option(help="What it may do.")] = Scope.FULL,
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="It ends after so many days.", show_default=False)
    ] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Make an API key, and print its secret: it is shown this once.

    ``-o name`` prints the secret alone.
    """
    from tidemill.clock import SystemClock

    ends = None if days is None else SystemClock().now() + timedelta(days=days)
    with connected(server) as client:
        made = client.account.create_api_key(name, scope=scope, expires_at=ends)
    facts = [
        ("key", made.key),
        ("id", made.apiKey.id),
        ("may do", made.apiKey.scope.value),
        ("ends", f"{made.apiKey.expiresAt:%Y-%m-%d %H:%M} UTC" if made.apiKey.expiresAt else "never"),
    ]
    show_one(made, facts, output, name=lambda each: each.key)
    if output is Form.TABLE:
        typer.echo("It is shown this once. For CI, put it into TIDEMILL_API_KEY.", err=True)


@app.command()
def rm(
    key: Annotated[str, typer.Argument(help="Its name, id, or the beginning of either.")],
    server: ServerOption = None,
) -> None:
    """Make an API key worthless, at once."""
    with connected(server) as client:
        meant = resolved(
            key, client.account.api_keys(), noun="API key", id=lambda row: row.id, name=lambda row: row.name
        )
        client.account.delete_api_key(meant.id)
    typer.echo(f"{meant.name}: deleted", err=True)
