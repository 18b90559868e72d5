"""``tidemill config``: the servers that this command knows, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from tidemill.cli import servers
from tidemill.cli.access import chosen
from tidemill.cli.credentials import keep_of
from tidemill.cli.failures import Failure
from tidemill.cli.lazy import commands
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_one, show_rows
from tidemill.cli.places import Places
from tidemill.cli.servers import Server, Servers, checked_name, checked_url
from tidemill.cli.table import Column

app = commands("The servers that this command knows, by name.")


def names() -> list[str]:
    """For the shell's completion; nothing where the file cannot be read."""
    try:
        return list(servers.read(Places.of().config).by_name)
    except (Failure, OSError):
        return []


Name = Annotated[str, typer.Argument(help="The server's name here.", autocompletion=names)]


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List the servers; the current one is marked."""
    known = servers.read(Places.of().config)
    rows = [_row(known, server) for server in known.by_name.values()]
    columns = [
        Column("", lambda row: "*" if row["current"] else ""),
        Column("NAME", lambda row: row["name"], firm=True),
        Column("URL", lambda row: row["url"], firm=True),
        Column("KEPT IN", lambda row: row["keptIn"]),
    ]
    empty = "No server is known. Log in with: tidemill login https://gpu.example.org"
    show_rows(rows, columns, output, name=lambda row: str(row["name"]), empty=empty)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    url: Annotated[str, typer.Argument(help="Its address, such as https://gpu.example.org.")],
    use: Annotated[bool, typer.Option("--use", help="Make it the current one.")] = False,
) -> None:
    """Add a server, or give one a new address. The first is the current one.

    A new address gets no credentials that were made for the old one: log in again.
    """
    server = Server(checked_name(name), checked_url(url))

    def added(known: Servers) -> Servers:
        before = known.by_name.get(name)
        known = known.with_one(server if before is None else replace(before, url=server.url))
        return known.using(name) if use else known

    servers.change(Places.of().config, added)
    typer.echo(f"{name} is {server.url}", err=True)


@app.command()
def use(name: Name) -> None:
    """Make a server the one that is meant when none is said."""
    known = servers.change(Places.of().config, lambda known: known.using(name))
    typer.echo(f"The current server is {name}, {known.by_name[name].url}", err=True)


@app.command()
def remove(name: Name) -> None:
    """Forget a server, and what was kept to log in there.

    API keys and tokens stay good on the server: `tidemill logout` first ends a key that login made.
    """
    places = Places.of()
    known = servers.read(places.config)
    server = known.get(name)
    keep_of(server, places).forget(server)
    servers.change(places.config, lambda known: known.without(name))
    typer.echo(f"{name} is forgotten", err=True)


@app.command()
def show(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """Show which server a command would ask, as whom, and what said so. No secret is shown."""
    places = Places.of()
    access = chosen(server, places=places)
    proof = (
        "an API key" if access.api_key else "an access token" if access.token else "nothing: not logged in"
    )
    row = {
        "name": access.server.name,
        "url": access.server.url,
        "username": access.username or None,
        "credential": "apiKey" if access.api_key else "token" if access.token else None,
        "source": access.source,
        "instanceId": access.instance or None,
        "config": str(places.config),
    }
    facts = [
        ("server", access.server.name),
        ("address", access.server.url),
        ("user", access.username),
        ("shown", proof),
        ("said by", access.source),
        ("instance", access.instance),
        ("file", str(places.config)),
    ]
    show_one(row, facts, output, name=lambda row: str(row["name"]))


def _row(known: Servers, server: Server) -> dict[str, object]:
    return {
        "name": server.name,
        "url": server.url,
        "current": server.name == known.current,
        "keptIn": "keyring" if server.keyring else "file",
    }
