"""The servers that this command knows by name: ``config.toml``. Nothing in it is secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from tidemill.cli.failures import Exit, Failure
from tidemill.cli.places import alone, write_whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Server:
    """A server by the name that it has here. ``keyring``: its credentials are kept in there."""

    name: str
    url: str
    keyring: bool = False


@dataclass(frozen=True, slots=True)
class Servers:
    """All of them; ``current`` is the name of the one that is meant when none is said, "" for none."""

    current: str = ""
    by_name: Mapping[str, Server] = field(default_factory=dict[str, Server])

    def get(self, name: str) -> Server:
        """Raises Failure, naming those that are there."""
        found = self.by_name.get(name)
        if found is None:
            known = ", ".join(self.by_name) or "none"
            raise Failure(
                f"There is no server {name!r} in the configuration; known: {known}",
                exit=Exit.NOT_FOUND,
                code="unknownServer",
                next="Add it with: tidemill config add NAME URL",
            )
        return found

    def at(self, url: str) -> Server | None:
        """The one with this address; the current one first."""
        ordered = sorted(self.by_name.values(), key=lambda each: each.name != self.current)
        return next((each for each in ordered if each.url == url), None)

    def with_one(self, server: Server) -> Servers:
        """The first one is the current one."""
        return Servers(self.current or server.name, {**self.by_name, server.name: server})

    def using(self, name: str) -> Servers:
        return replace(self, current=self.get(name).name)

    def without(self, name: str) -> Servers:
        rest = {each: server for each, server in self.by_name.items() if each != name}
        return Servers("" if self.current == name else self.current, rest)


def checked_name(name: str) -> str:
    """Raises Failure for what can be no server's name."""
    if not NAME.fullmatch(name):
        raise Failure(
            f"{name!r} cannot name a server: letters, digits, dots, dashes and underscores do",
            exit=Exit.USAGE,
            code="invalidName",
        )
    return name


def checked_url(url: str) -> str:
    """An address as it is kept: with its scheme, without what follows the port. Raises Failure."""
    text = url.strip() if "://" in url else f"https://{url.strip()}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    path = parts.path.rstrip("/").removesuffix("/api")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not text.isprintable():
        raise Failure(
            f"{url!r} is no address of a server; it looks like https://gpu.example.org",
            exit=Exit.USAGE,
            code="invalidUrl",
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise Failure(
            "The address of a server has no user, password, query or fragment",
            exit=Exit.USAGE,
            code="invalidUrl",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"


def name_for(url: str) -> str:
    """The name that a server gets when nobody gave it one: its host's, with the port where there is one."""
    parts = urlsplit(url)
    name = f"{parts.hostname}{'' if parts.port is None else f'-{parts.port}'}".replace(":", "-").strip("-.")
    return name if NAME.fullmatch(name) else "server"


def read(path: Path) -> Servers:
    """What is in the file; nothing, where there is none. Raises Failure for what cannot be read."""
    import tomllib

    try:
        written = tomllib.loads(path.read_text("utf-8"))
        tables = cast(dict[str, dict[str, Any]], written.get("server", {}))
        servers = {
            name: Server(checked_name(name), checked_url(table["url"]), bool(table.get("keyring", False)))
            for name, table in tables.items()
        }
        current = str(written.get("current", ""))
    except FileNotFoundError:
        return Servers()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path} cannot be read: {error}", code="badConfiguration") from None
    return Servers(current if current in servers else "", servers)


def change(path: Path, how: Callable[[Servers], Servers]) -> Servers:
    """Write what ``how`` makes of what is there; two commands at once lose nothing of each other's."""
    with alone(path):
        changed = how(read(path))
        write(path, changed)
    return changed


def write(path: Path, servers: Servers) -> None:
    lines = ["# Written by `tidemill config`; the current server is the one that is meant when none is said."]
    lines.append(f"current = {json.dumps(servers.current)}")
    for name, server in servers.by_name.items():
        lines += ["", f"[server.{json.dumps(name)}]", f"url = {json.dumps(server.url)}"]
        if server.keyring:
            lines.append("keyring = true")
    write_whole(path, "\n".join(lines) + "\n")
