"""``tidemill key``: the ssh keys of the account, which open its instances."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.identities import Identity, body, made, of_this_machine
from tidemill.cli.lazy import commands
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_one, show_rows
from tidemill.cli.places import Places
from tidemill.cli.resolving import resolved
from tidemill.cli.table import Column, seemly

if TYPE_CHECKING:
    from tidemill.wire.accounts import SshKeyRow

app = commands("The ssh keys of your account, which open your instances.")
MOST = 20_000  # characters that are read as a public key

File = Annotated[
    str | None,
    typer.Argument(
        help="A file that ends in .pub; - for standard input. Without it, the key of this machine.",
        show_default=False,
    ),
]


@app.command("list")
def list_(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """List the keys; HERE says where the private part is, where that is on this machine."""
    with connected(server) as client:
        rows = client.account.ssh_keys()
    here = {each.body: each for each in of_this_machine(Places.of())}
    columns = [
        Column("NAME", lambda row: row.name),
        Column("ID", lambda row: row.id[:8], firm=True),
        Column("KIND", lambda row: row.publicKey.partition(" ")[0]),
        Column("FINGERPRINT", lambda row: row.fingerprint, firm=True),
        Column("ADDED", lambda row: f"{row.createdAt:%Y-%m-%d}"),
        Column("HERE", lambda row: _where(here.get(body(row.publicKey)))),
    ]
    show_rows(rows, columns, output, name=lambda row: row.id, empty="The account has no ssh key.")


@app.command()
def add(
    file: File = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it; without it, the key's comment.")
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Make a key of this machine's own, where there is none.")
    ] = False,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Add a public key; it opens your instances, running ones too, within seconds.

    The key of this machine is the one that `tidemill ssh` made, else the first in ~/.ssh, else the agent's
    first. One that the account has already is no error.
    """
    line = _line(file, generate=generate, places=Places.of())
    with connected(server) as client:
        row = next((key for key in client.account.ssh_keys() if body(key.publicKey) == body(line)), None)
        if row is None:
            row = client.account.add_ssh_key(line, name=name)
        else:
            typer.echo(f"The account has this key already; it is called {seemly(row.name)}", err=True)
    facts = [("name", row.name), ("id", row.id), ("fingerprint", row.fingerprint), ("key", row.publicKey)]
    show_one(row, facts, output, name=lambda each: each.id)


@app.command()
def rm(
    keys: Annotated[list[str], typer.Argument(help="By name, id or fingerprint.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = None,
) -> None:
    """Remove keys: they open your instances no longer, running ones neither."""
    with connected(server) as client:
        there = client.account.ssh_keys()
        meant = list(dict.fromkeys(_meant(said, there).id for said in keys))
        for row in [row for row in there if row.id in meant]:
            told = f"{seemly(row.name)} ({row.fingerprint})"
            if not yes and not _agreed(told):
                continue
            client.account.delete_ssh_key(row.id)
            typer.echo(f"{told} is removed", err=True)


def _where(found: Identity | None) -> str:
    if found is None:
        return ""
    return "agent" if found.is_in_agent else str(found.file)


def _meant(said: str, there: list[SshKeyRow]) -> SshKeyRow:
    """Raises Failure."""
    by_print = [row for row in there if said in {row.fingerprint, row.fingerprint.removeprefix("SHA256:")}]
    if by_print:
        return by_print[0]
    return resolved(said, there, noun="ssh key", id=lambda row: row.id, name=lambda row: row.name)


def _agreed(told: str) -> bool:
    if not sys.stdin.isatty():
        raise Failure(
            f"There is no terminal to ask on whether {told} may go",
            exit=Exit.USAGE,
            code="usage",
            next="Say so with --yes",
        )
    typer.echo(f"Remove {told}? [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _line(file: str | None, *, generate: bool, places: Places) -> str:
    """The public key that is meant. A private one is never read further, nor sent. Raises Failure."""
    if generate:
        if file is not None:
            raise Failure("--generate makes the file; name none", exit=Exit.USAGE, code="usage")
        return made(places).line
    if file is None:
        found = of_this_machine(places)
        if not found:
            raise Failure(
                "This machine has no ssh key",
                exit=Exit.NOT_FOUND,
                code="noKey",
                next="Make one with: tidemill key add --generate",
            )
        return found[0].line
    try:
        text = sys.stdin.read(MOST) if file == "-" else _start_of(Path(file).expanduser())
    except FileNotFoundError:
        raise Failure(f"There is no {file}", exit=Exit.NOT_FOUND, code="noFile") from None
    except UnicodeDecodeError:
        text = ""
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise Failure(
            f"{file} is the private part of a key, which nobody but you should have",
            exit=Exit.USAGE,
            code="privateKey",
            next="The public part is in the file that ends in .pub",
        )
    if not text.isprintable() or " " not in text:
        raise Failure(f"{file} holds no public key of OpenSSH's", exit=Exit.USAGE, code="noKey")
    return text


def _start_of(file: Path) -> str:
    with open(file, encoding="utf-8") as opened:
        return opened.read(MOST)
