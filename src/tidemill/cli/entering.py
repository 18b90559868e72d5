"""``tidemill ssh`` and ``tidemill cp``: OpenSSH's own programs, told where the instance is and who it is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tidemill.cli import resolving
from tidemill.cli.completion import instance_names
from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.identities import admitted, program
from tidemill.cli.options import ServerOption
from tidemill.cli.places import Places
from tidemill.cli.route import USER, Route, options, remember, route_to

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.wire.instances import InstanceRow

# Options that take the next word, of ssh(1) and scp(1).
SSH_TAKING = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
SCP_TAKING = frozenset("cDFiJloPSX")
NEW_KEY = 10.0  # seconds for a key that was just added to be known inside; it takes about two
PAUSE = 0.3  # seconds between two tries
SFTP_SINCE = (8, 7)  # the version of OpenSSH whose scp can speak sftp; from 9.0 on it does by itself


def ssh(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME [COMMAND]...",
            help="An instance: name, id or a beginning of one, perhaps USER@ it; then what ssh takes.",
            autocompletion=instance_names,
            show_default=False,
        ),
    ],
    server: ServerOption = None,
) -> None:
    """Enter an instance, or run a command in it.

    Waits for one that is starting. Where the account has no ssh key of this machine, one is made and added.
    The host key is the one that the server names, and is checked. All else is ssh's own: its options (-L, -A,
    -t, -v ...), the files in ~/.ssh, and its exit code, which is that of the command, or 255.

    \b
    tidemill ssh first
    tidemill ssh first nvidia-smi
    tidemill ssh first -L 8888:localhost:8888
    """
    before, rest = leading(words, SSH_TAKING)
    if not rest:
        raise Failure("Which instance?", exit=Exit.USAGE, code="usage", next="See: tidemill ls")
    said, rest = rest[0], rest[1:]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    after, _ = leading(rest, SSH_TAKING)
    found = program("ssh")
    with connected(server) as client:
        entry = entered(client, said, Places.of())
    chosen = any(word.startswith("-l") for word in (*before, *after))
    whom = entry.route.id if chosen else f"{entry.user}@{entry.route.id}"
    _become(found, [*entry.options, *before, whom, *rest])


def cp(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="What to copy, and last where to. NAME:PATH, or USER@NAME:PATH, is inside an instance.",
            show_default=False,
        ),
    ],
    server: ServerOption = None,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Folders, with what is in them.")
    ] = False,
) -> None:
    """Copy files into an instance, or out of it.

    It is scp, over sftp, which works in any image; its options (-p, -C, -l ...) are passed on. A path inside
    that does not begin with / is below the home folder. To copy only what changed, use rsync with the names
    that `tidemill ssh-config` gives.

    \b
    tidemill cp -r data first:/root/dataDisk/
    tidemill cp first:results.csv .
    """
    passed, paths = leading(words, SCP_TAKING, anywhere=True)
    said, sources, target = sides(paths)
    found = program("scp")
    with connected(server) as client:
        entry = entered(client, said, Places.of())
    marks = [*(["-s"] if _may_ask_for_sftp() else []), *(["-r"] if recursive else [])]
    far = f"{entry.user}@{entry.route.id}:"
    ends = [far + each.path if each.is_inside else here(each.path) for each in (*sources, target)]
    _become(found, [*marks, *entry.options, *passed, "--", *ends])


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is needed to enter an instance as ``user``."""

    route: Route
    user: str
    options: list[str]


def entered(client: Client, said: str, places: Places) -> Entry:
    """Where it is, once it runs, with a key that opens it. Raises Failure, and what the client raises."""
    row, user = _meant(client, said)
    row = running(client, row, said)
    route = route_to(row)
    identities, is_new = admitted(client, places)
    remember([route], places)
    told = options(route, identities, places)
    entry = Entry(route, user or route.user, told)
    if is_new:
        await_key(entry)
    return entry


def _meant(client: Client, said: str) -> tuple[InstanceRow, str]:
    """Also ``USER@NAME``, where nothing is called that."""
    user, _, name = said.partition("@")
    if not (name and USER.fullmatch(user)):
        return resolving.instance(client, said), ""
    try:
        return resolving.instance(client, said), ""
    except Failure as failure:
        if failure.code != "unknownName":
            raise
    return resolving.instance(client, name), user


def running(client: Client, row: InstanceRow, said: str) -> InstanceRow:
    """The row once it runs, with words on what is waited for. Raises Failure where it does not get there."""
    from tidemill.client.instances import RUNNING, SETTLED
    from tidemill.model.lifecycle import State

    stopped, stopping = State.STOPPED.value, State.STOPPING.value
    found, seen = row, ""
    if row.instanceRuntimeInfo.status not in SETTLED | {stopping}:
        for found in client.instances.watch(row.instanceMetadata.instanceId):
            runtime = found.instanceRuntimeInfo
            if runtime.status not in SETTLED and runtime.status != seen:
                typer.echo(f"{said} is {runtime.status}; waiting until it runs", err=True)
            seen = runtime.status
    runtime = found.instanceRuntimeInfo
    if runtime.status == RUNNING:
        return found
    why = f": {runtime.diagnosisMessage}" if runtime.diagnosisMessage else ""
    again = runtime.status in {stopped, stopping}
    raise Failure(
        f"{said} is {runtime.status}{why}",
        exit=Exit.CONFLICT,
        code="notRunning",
        next=f"Start it with: tidemill start {shlex.quote(said)}" if again else "",
    )


def await_key(entry: Entry) -> None:
    """Until the instance knows a key that was just added, or does not seem to get to know it."""
    from threading import Event

    from tidemill.clock import SystemClock

    quiet = [
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "ControlMaster=no",
        "-o",
        "ControlPath=none",
    ]
    command = [program("ssh"), *entry.options, *quiet, "-T", f"{entry.user}@{entry.route.id}", "true"]
    clock, pause = SystemClock(), Event()
    deadline = clock.monotonic() + NEW_KEY
    while clock.monotonic() < deadline:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode == 0 or "Permission denied" not in done.stderr:
            return
        pause.wait(PAUSE)


def leading(
    words: Sequence[str], taking: frozenset[str], *, anywhere: bool = False
) -> tuple[list[str], list[str]]:
    """Options at the beginning, with the words that they take, and the rest; ``anywhere``: also in between.

    ``--`` ends them and is left out where ``anywhere``, or where nothing but options came before it.
    """
    found: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return found, [*rest, *left]
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not anywhere:
                return found, [*rest, *left]
            continue
        found.append(word)
        takes = next((at for at, letter in enumerate(word[1:], 2) if letter in taking), None)
        if takes == len(word) and left:
            found.append(left.pop(0))
    return found, rest


@dataclass(frozen=True, slots=True)
class Place:
    """A path, here or inside the instance."""

    path: str
    is_inside: bool


REMOTE = re.compile(r"([^/:]+):(.*)", re.DOTALL)


def sides(paths: Sequence[str]) -> tuple[str, list[Place], Place]:
    """The one instance that is meant, what is copied, and where to. Raises Failure for what is no copy."""
    if len(paths) < 2:
        raise Failure(
            "Say what to copy, and where to",
            exit=Exit.USAGE,
            code="usage",
            next="For example: tidemill cp data.tar first:/root/dataDisk/",
        )
    found = [(REMOTE.fullmatch(path), path) for path in paths]
    names = {match[1] for match, _ in found if match}
    places = [Place(match[2] if match else path, match is not None) for match, path in found]
    *sources, target = places
    if not names:
        raise Failure(
            "One side is inside an instance: NAME:PATH (and a file here with a colon in its name is ./NAME)",
            exit=Exit.USAGE,
            code="usage",
        )
    if len(names) > 1 or any(each.is_inside == target.is_inside for each in sources):
        raise Failure(
            "One side is here, the other in one instance; between two instances, copy by way of here",
            exit=Exit.USAGE,
            code="usage",
        )
    if not target.is_inside:
        return names.pop(), sources, target
    gone = [each.path for each in sources if not os.path.lexists(each.path)]
    if gone:
        raise Failure(f"There is no {gone[0]} here", exit=Exit.NOT_FOUND, code="noFile")
    return names.pop(), sources, target


def here(path: str) -> str:
    """A path of this machine, so that scp takes it for nothing else."""
    return path if path.startswith("/") else os.path.join(".", path)


def _may_ask_for_sftp() -> bool:
    """Whether this scp knows ``-s``."""
    done = subprocess.run(
        [program("ssh"), "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    version = re.search(r"OpenSSH\D*(\d+)\.(\d+)", done.stderr)
    return version is not None and (int(version[1]), int(version[2])) >= SFTP_SINCE


def _become(file: str, words: Sequence[str]) -> NoReturn:
    """Let another program take the place of this one; its exit code is this command's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(file, [Path(file).name, *words])  # noqa: S606 - no shell is wanted
