"""The way into an instance, as OpenSSH is told it: in options of a command, or in lines of a configuration.

What the server says is checked before ssh sees it, and names come from other programs: nothing of theirs can
become an option or a line. The host key is the one that the server names, kept under the instance's id, so
that a port which had another instance before is no contradiction. It is always checked, and none is believed
because it came first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.cli.failures import Failure
from tidemill.cli.places import Places, alone, write_whole

if TYPE_CHECKING:
    from tidemill.wire.instances import InstanceRow

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*\.?")
HOST_KEY = re.compile(r"(?:ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}")
KEPT = 2000  # host keys, of the instances that were entered last


@dataclass(frozen=True, slots=True)
class Route:
    """All of it is checked; only ``name`` is as somebody wrote it, and is for people."""

    id: str
    name: str
    user: str
    address: str
    port: int
    host_key: str


def route_to(row: InstanceRow) -> Route:
    """Raises Failure where the server says no way in, or one that cannot be."""
    from tidemill.model.instance import SSH_PORT

    about, spec, runtime = row.instanceMetadata, row.instanceSpecInfo, row.instanceRuntimeInfo
    name = about.name or about.instanceName or about.instanceId
    found = next((each.nodePort for each in spec.nodePorts if each.port == SSH_PORT), None)
    if found is None:
        raise Failure(f"{name} has no port for ssh", code="noWayIn")
    if not runtime.sshHostKey:
        raise Failure(
            f"The server names no host key for {name}, so nobody could tell it from another machine",
            code="noHostKey",
        )
    return Route(
        id=_checked(ID.fullmatch(about.instanceId), about.instanceId, "id", name),
        name=name,
        user=_checked(USER.fullmatch(about.instanceUsername), about.instanceUsername, "name of a user", name),
        address=_checked(is_address(spec.regionInfo.sshAddress), spec.regionInfo.sshAddress, "address", name),
        port=int(_checked(0 < found < 2**16, str(found), "port", name)),
        host_key=_checked(HOST_KEY.fullmatch(runtime.sshHostKey), runtime.sshHostKey, "host key", name),
    )


def is_address(text: str) -> bool:
    """A host's name, or an IP address without brackets or zone."""
    import ipaddress

    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return HOST.fullmatch(text) is not None


def _checked(is_good: object, text: str, what: str, name: str) -> str:
    if not is_good:
        raise Failure(f"The server says an impossible {what} for {name}: {text!r}", code="badAnswer")
    return text


def settings(route: Route, identities: Sequence[Path], places: Places) -> list[tuple[str, str]]:
    """Keyword and value, quoted as OpenSSH's configuration wants it. Who logs in is not among them."""
    return [
        ("HostName", route.address),
        ("Port", str(route.port)),
        ("HostKeyAlias", route.id),
        ("UserKnownHostsFile", quoted(places.known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("CheckHostIP", "no"),
        ("UpdateHostKeys", "no"),
        ("IdentitiesOnly", "yes"),
        *(("IdentityFile", quoted(each)) for each in identities),
    ]


def options(route: Route, identities: Sequence[Path], places: Places) -> list[str]:
    """The same for a command: ``-o Keyword=value``, which nothing in a user's own file overrides."""
    return [word for name, value in settings(route, identities, places) for word in ("-o", f"{name}={value}")]


def quoted(path: Path) -> str:
    """A path as a value of ssh's configuration. Raises Failure for what cannot be written there."""
    text = str(path)
    if not text.isprintable() or "${" in text or any(mark in text for mark in "\"\\'"):
        raise Failure(
            f"ssh cannot be told of a file that is called {text!r}",
            code="badPath",
            next="Name another folder in TIDEMILL_HOME",
        )
    return '"' + text.replace("%", "%%") + '"'


def remember(routes: Iterable[Route], places: Places) -> None:
    """Write the host keys of these instances; an older one of the same instance goes."""
    told = {route.id: f"{route.id} {route.host_key}" for route in routes}
    if not told:
        return
    with alone(places.known_hosts):
        try:
            lines = places.known_hosts.read_text("utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            lines = []
        kept = [line for line in lines if line.partition(" ")[0] not in told]
        changed = [*kept, *told.values()][-KEPT:]
        if changed != lines:
            write_whole(places.known_hosts, "\n".join(changed) + "\n")
