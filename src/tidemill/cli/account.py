"""Who one is at a server: ``tidemill login``, ``logout`` and ``me``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from tidemill.cli import servers
from tidemill.cli.access import Access, chosen
from tidemill.cli.config import names
from tidemill.cli.connection import client_of, connected
from tidemill.cli.credentials import Credential, keep_of
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_one
from tidemill.cli.places import Places
from tidemill.cli.servers import Server, Servers, checked_name, checked_url, name_for
from tidemill.cli.telling import span

if TYPE_CHECKING:
    from tidemill.client import Client

NEAR = frozenset({"localhost", "127.0.0.1", "::1"})  # what is sent there crosses no network

Where = Annotated[
    str | None,
    typer.Argument(
        help="The server's address, or its name here; without it, the current one.", autocompletion=names
    ),
]


def login(
    server: Where = None,
    username: Annotated[str | None, typer.Option("--user", "-u", help="Who; asked for otherwise.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    api_key_stdin: Annotated[
        bool, typer.Option("--api-key-stdin", help="Read an API key from standard input, and keep that.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Make an API key and keep that: it does not expire.")
    ] = False,
    keyring: Annotated[
        bool | None,
        typer.Option(
            "--keyring/--no-keyring",
            help="Keep it in the system's keyring, not in a file.",
            show_default=False,
        ),
    ] = None,
    called: Annotated[str | None, typer.Option("--as", help="What to call a new server here.")] = None,
) -> None:
    """Log in at a server, which is the current one from then on.

    An access token is kept, which is good for a day. With --keep an API key is made on the server, with the
    name of this machine, and kept instead; the next login ends it. The password is kept nowhere, and neither
    it nor a key is an argument: others would see them in the list of processes.
    """
    if password_stdin and api_key_stdin:
        raise Failure("Standard input has a password or an API key, not both", exit=Exit.USAGE, code="usage")
    places = Places.of()
    known = servers.read(places.config)
    before = _meant(server, called, known, places)
    meant = before if keyring is None else replace(before, keyring=keyring)
    old, keep_there = keep_of(before, places).get(before), keep_of(meant, places)
    _warn_of_plain_http(meant)
    if api_key_stdin:
        credential, told = _with_key(meant, _line("API key")), "The API key is kept."
    else:
        who = username or _ask_username("" if old is None else old.username)
        password = _line("password") if password_stdin else _ask_password(who)
        credential, told = _with_password(meant, who, password, keep=keep, old=old)
    keep_there.put(meant, credential)
    if meant.keyring != before.keyring:
        keep_of(before, places).forget(before)
    servers.change(places.config, lambda known: known.with_one(meant).using(meant.name))
    typer.echo(f"Logged in at {meant.url} as {credential.username}. {told}", err=True)


def logout(
    server: Where = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="End all access tokens of the account, on all machines.")
    ] = False,
) -> None:
    """Forget how one is known at a server.

    What was kept here is removed. An access token ends within a day, or with --everywhere at once; an API
    key that `tidemill login --keep` made stays good until it is deleted, or until the next login here.
    """
    places = Places.of()
    known = servers.read(places.config)
    meant = _meant(server, None, known, places)
    keep = keep_of(meant, places)
    old = keep.get(meant)
    if old is None:
        typer.echo(f"Nobody was logged in at {meant.url}", err=True)
        return
    if everywhere:
        with client_of(Access(meant, old.token, old.api_key)) as client:
            client.account.logout()
    keep.forget(meant)
    stays = f" The API key {old.api_key_id} stays good there until it is deleted." if old.api_key_id else ""
    typer.echo(f"Logged out at {meant.url}.{stays}", err=True)


def me(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """Show whose account it is, and what the credential in use may do."""
    access = chosen(server)
    with connected(server) as client:
        account = client.account.me()
    facts = [
        ("user", account.username),
        ("groups", ", ".join(account.group)),
        ("may do", account.scope.value),
        ("since", f"{account.createdAt:%Y-%m-%d}"),
        ("id", account.userId),
        ("server", f"{access.server.name}, {access.server.url}"),
    ]
    show_one(account, facts, output, name=lambda row: row.username)


def _meant(said: str | None, called: str | None, known: Servers, places: Places) -> Server:
    """The server that is known by this name or address, or a new one. Raises Failure."""
    if said is None:
        return chosen(places=places).server
    if said in known.by_name:
        return known.by_name[said]
    if not any(mark in said for mark in ".:/"):
        return known.get(said)
    url = checked_url(said)
    found = known.at(url)
    if found is not None and called in {None, found.name}:
        return found
    name = checked_name(called or name_for(url))
    if name in known.by_name:
        raise Failure(
            f"{name} is {known.by_name[name].url} here",
            exit=Exit.CONFLICT,
            code="nameTaken",
            next="Call the new server something else with --as",
        )
    return Server(name, url)


def _with_key(server: Server, key: str) -> Credential:
    with client_of(Access(server, api_key=key)) as client:
        return Credential(server.url, client.account.me().username, api_key=key)


def _with_password(
    server: Server, username: str, password: str, *, keep: bool, old: Credential | None
) -> tuple[Credential, str]:
    """What to keep, and how long it is good. The key that an earlier login kept here ends."""
    with client_of(Access(server)) as client:
        token = client.account.login(username, password)
        if old is not None and old.api_key_id and old.username == username:
            _end_key(client, old.api_key_id)
        if not keep:
            told = f"That is good for {span(token.accessExpire)}."
            return Credential(server.url, username, token=token.accessToken), told
        import platform

        made = client.account.create_api_key(f"tidemill on {platform.node() or 'a machine'}")
    credential = Credential(server.url, username, api_key=made.key, api_key_id=made.apiKey.id)
    return credential, f"The API key {made.apiKey.name!r} is kept; it does not expire."


def _end_key(client: Client, id: str) -> None:
    """One that somebody deleted already is no error."""
    from tidemill.client.errors import NotFound

    try:
        client.account.delete_api_key(id)
    except NotFound:
        return


def _line(what: str) -> str:
    """The first line of standard input. Raises Failure when it is empty."""
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Failure(f"Standard input has no {what}", exit=Exit.USAGE, code="usage")
    return line


def _ask_username(before: str) -> str:
    if not sys.stdin.isatty():
        if before:
            return before
        raise Failure("Nobody said who logs in", exit=Exit.USAGE, code="usage", next="Say it with --user")
    typer.echo(f"User{f' [{before}]' if before else ''}: ", err=True, nl=False)
    said = sys.stdin.readline()
    if not said.strip() and not before:
        raise Failure("Nobody said who logs in", exit=Exit.USAGE, code="usage")
    return said.strip() or before


def _ask_password(username: str) -> str:
    """From the terminal, which does not show it."""
    if not sys.stdin.isatty():
        raise Failure(
            "There is no terminal to type a password on",
            exit=Exit.USAGE,
            code="usage",
            next="Pipe it into: tidemill login --password-stdin",
        )
    from getpass import getpass

    return getpass(f"Password of {username}: ")


def _warn_of_plain_http(server: Server) -> None:
    parts = urlsplit(server.url)
    if parts.scheme == "http" and parts.hostname not in NEAR:
        typer.echo(f"tidemill: {server.url} is not encrypted: others may read what is sent", err=True)
