"""``tidemill ssh-config``: the names of instances for whatever reads ssh's configuration.

Names come from other programs. Only what is a word of letters, digits, dashes and underscores becomes a name
for ssh: nothing in it can end a line or a quotation or match other hosts, and without dots it takes no
host's place in the network. Every instance has its id as well.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.access import chosen
from tidemill.cli.connection import connected
from tidemill.cli.entering import Entry, await_key
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.identities import admitted
from tidemill.cli.options import ServerOption
from tidemill.cli.places import Places, private_folder, write_whole
from tidemill.cli.route import Route, options, quoted, remember, route_to, settings
from tidemill.cli.table import seemly

if TYPE_CHECKING:
    from tidemill.wire.instances import InstanceRow

NAME = re.compile(r"[^\W_][\w-]{0,62}")
TAKEN = frozenset({"localhost"})
HEADING = "# Written by `tidemill ssh-config --write`; the next one keeps nothing of what is changed here."


def ssh_config(
    write: Annotated[
        bool,
        typer.Option("--write", help="Keep it in a file that ~/.ssh/config includes; asks first."),
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take back all that --write did.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = None,
) -> None:
    """Let ssh, rsync, VS Code and JetBrains use the names of instances.

    Prints what ssh needs to know of each running instance, or keeps it with --write: do that again when there
    are new ones. As with `tidemill ssh`, a key is made and added where the account has none of this machine.

    \b
    tidemill ssh-config --write
    ssh first
    rsync -a data/ first:/root/dataDisk/data/
    """
    places = Places.of()
    mine = ssh_folder() / "config"
    if remove:
        if write:
            raise Failure("--write and --remove are opposites", exit=Exit.USAGE, code="usage")
        _remove(mine, places)
        return
    access = chosen(server)
    with connected(server) as client:
        rows = list(client.instances.list(status=["Running"]))
        identities, is_new = admitted(client, places)
    routes = _routes(rows)
    remember(routes, places)
    if is_new:  # whoever types ssh next is let in
        for route in routes:
            await_key(Entry(route, route.user, options(route, identities, places)))
    names, left_out = named(routes, taken_in(mine))
    for route in left_out:
        typer.echo(f"{seemly(route.name)} has no name that ssh could use alone; it is {route.id}", err=True)
    lines = [HEADING] if write else []
    for route in routes:
        lines += block(route, names.get(route.id), identities, places)
    text = "\n".join(lines) + "\n" if lines else ""
    if not write:
        sys.stdout.write(text)
        if not routes:
            typer.echo("No instance is running.", err=True)
        return
    file = folder(places) / f"{access.server.name}.conf"
    write_whole(file, text)
    typer.echo(
        f"{len(routes)} running {'instance is' if len(routes) == 1 else 'instances are'} in {file}", err=True
    )
    _include(mine, include_line(places), yes=yes)


def ssh_folder() -> Path:
    """``~/.ssh``."""
    return Path(os.environ.get("HOME") or Path.home()) / ".ssh"


def folder(places: Places) -> Path:
    """One file for each server."""
    return places.ssh / "servers"


def include_line(places: Places) -> str:
    """The one line of ours in the user's own configuration. Raises Failure for a path that it cannot have."""
    here = folder(places)
    if any(mark in str(here) for mark in "*?[]{}"):
        raise Failure(
            f"ssh cannot be told of a folder that is called {str(here)!r}",
            code="badPath",
            next="Name another folder in TIDEMILL_HOME",
        )
    return f"Include {quoted(here / '*.conf')}"


def _routes(rows: Iterable[InstanceRow]) -> list[Route]:
    """Of those that there is a way into; the others are told."""
    found: list[Route] = []
    for row in rows:
        try:
            found.append(route_to(row))
        except Failure as failure:
            typer.echo(f"Left out: {seemly(failure.message)}", err=True)
    return found


def named(routes: Sequence[Route], taken: Collection[str] = ()) -> tuple[dict[str, str], list[Route]]:
    """The name that each id has for ssh, and those that have none. ``routes``: the newest first."""
    used = {*taken, *TAKEN, *(route.id for route in routes)}
    names: dict[str, str] = {}
    left_out: list[Route] = []
    for route in routes:
        if NAME.fullmatch(route.name) and route.name not in used:
            names[route.id] = route.name
            used.add(route.name)
        elif route.name != route.id:
            left_out.append(route)
    return names, left_out


def block(route: Route, name: str | None, identities: Sequence[Path], places: Places) -> list[str]:
    """Lines of ssh's configuration. Only what was checked or quoted is in them."""
    told = [("User", route.user), *settings(route, identities, places)]
    hosts = route.id if name is None else f"{name} {route.id}"
    return [f"Host {hosts}", *(f"    {keyword} {value}" for keyword, value in told), ""]


def taken_in(file: Path) -> set[str]:
    """Names that the user's own configuration has: an instance takes none of them."""
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found: set[str] = set()
    for line in lines:
        keyword, *words = line.replace("=", " ", 1).split() or [""]
        if keyword.lower() == "host":
            found |= {word.strip('"') for word in words}
    return found


def _include(file: Path, line: str, *, yes: bool) -> None:
    """Have ``line`` at the top of the user's own configuration, where a Host cannot have it for itself."""
    text = _text(file)
    if line in text.splitlines():
        return
    if not yes and not _agreed(file):
        typer.echo(f"{file} is as it was. To have the names in it, put this at its top:\n{line}", err=True)
        return
    _replace(file, f"{line}\n{text}")
    typer.echo(f"{file} includes it now", err=True)


def _agreed(file: Path) -> bool:
    if not sys.stdin.isatty():
        raise Failure(
            f"There is no terminal to ask on whether {file} may get a line",
            exit=Exit.USAGE,
            code="usage",
            next="Say so with --yes",
        )
    typer.echo(
        f"Add one line to the top of {file}, so that ssh and editors know the names? [y/N] ",
        err=True,
        nl=False,
    )
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _remove(file: Path, places: Places) -> None:
    line, text = include_line(places), _text(file)
    kept = [each for each in text.splitlines(keepends=True) if each.rstrip("\r\n") != line]
    if len(kept) != len(text.splitlines()):
        _replace(file, "".join(kept))
        typer.echo(f"{file} no longer includes it", err=True)
    for each in sorted(folder(places).glob("*.conf")):
        each.unlink(missing_ok=True)
        typer.echo(f"{each} is removed", err=True)


def _text(file: Path) -> str:
    """What is in it, byte for byte; nothing, where it is not there."""
    try:
        with open(file, encoding="utf-8", errors="surrogateescape", newline="") as opened:
            return opened.read()
    except FileNotFoundError:
        return ""


def _replace(file: Path, text: str) -> None:
    """Write the user's own file; where it is a link, what that leads to. Its rights stay as they are."""
    target = Path(os.path.realpath(file))
    private_folder(file.parent)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    write_whole(target, text)
    target.chmod(mode)
