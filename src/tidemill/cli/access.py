"""Which server a command asks, and what it proves itself with: flag, else environment, else file.

1. ``--server``: a name from ``config.toml``, or an address.
2. ``TIDEMILL_URL``, else ``TIDEMILL_SERVER`` (a name).
3. The current server of ``config.toml``, else the only one there is.
4. Inside an instance: what its server put into ``/.tidemill/instance/api``; with ``--self`` only that.

``TIDEMILL_API_KEY`` or ``TIDEMILL_TOKEN`` go to ``TIDEMILL_URL`` when that is set, and to no other; without
it, to the server that was chosen. What is kept goes to the address that it was got from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.cli import servers
from tidemill.cli.credentials import keep_of
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.places import Places
from tidemill.cli.servers import Server, Servers
from tidemill.surroundings import by_instance

VARIABLES = (
    ("TIDEMILL_URL", "the server's address, such as https://gpu.example.org"),
    ("TIDEMILL_API_KEY", "an API key for it; for CI"),
    ("TIDEMILL_TOKEN", "an access token for it, instead of a key"),
    ("TIDEMILL_SERVER", "the name of the server to ask, of those that `tidemill config list` shows"),
    ("TIDEMILL_HOME", "the folder of config.toml and credentials.json; default ~/.config/tidemill"),
    ("NO_COLOR", "set to anything: no colours"),
)


@dataclass(frozen=True, slots=True)
class Access:
    """A server, what to show it, and what said so. ``instance`` is the one that this runs in, or ""."""

    server: Server
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    source: str = ""
    username: str = ""
    instance: str = ""

    @property
    def is_logged_in(self) -> bool:
        return self.token is not None or self.api_key is not None


def chosen(
    said: str | None = None,
    *,
    own: bool = False,
    places: Places | None = None,
    environ: Mapping[str, str] | None = None,
) -> Access:
    """What a command goes by. Raises Failure when there is no server, or a named one is not known."""
    environ = os.environ if environ is None else environ
    places = places or Places.of(environ)
    if own:
        found = within_instance(places.instance)
        if found is None:
            raise Failure(
                f"This is no instance that may speak to its server: there is no {places.instance}",
                exit=Exit.NOT_LOGGED_IN,
                code="notInInstance",
            )
        return found
    known = servers.read(places.config)
    server, source = _server(said, known, environ)
    if server is None:
        found = within_instance(places.instance)
        if found is None:
            raise Failure(
                "No server is known",
                exit=Exit.NOT_LOGGED_IN,
                code="noServer",
                next="Log in with: tidemill login https://gpu.example.org",
            )
        return found
    return _with_credential(server, source, places, environ)


def _server(said: str | None, known: Servers, environ: Mapping[str, str]) -> tuple[Server | None, str]:
    """The server, and what named it."""
    if said:
        return _named(said, known), "--server"
    if url := environ.get("TIDEMILL_URL"):
        return _named(servers.checked_url(url), known), "TIDEMILL_URL"
    if name := environ.get("TIDEMILL_SERVER"):
        return known.get(name), "TIDEMILL_SERVER"
    if known.current:
        return known.by_name[known.current], "the current server"
    only = next(iter(known.by_name.values())) if len(known.by_name) == 1 else None
    return only, "the only server"


def _named(said: str, known: Servers) -> Server:
    if said in known.by_name or "://" not in said:
        return known.get(said)
    url = servers.checked_url(said)
    return known.at(url) or Server(servers.name_for(url), url)


def _with_credential(server: Server, source: str, places: Places, environ: Mapping[str, str]) -> Access:
    """Environment, else what is kept. Raises Failure when the environment says both kinds."""
    api_key, token = environ.get("TIDEMILL_API_KEY") or None, environ.get("TIDEMILL_TOKEN") or None
    bound = environ.get("TIDEMILL_URL")
    if (api_key or token) and (not bound or servers.checked_url(bound) == server.url):
        if api_key and token:
            raise Failure(
                "TIDEMILL_API_KEY and TIDEMILL_TOKEN are both set; one is enough",
                exit=Exit.USAGE,
                code="ambiguousCredentials",
            )
        by = "TIDEMILL_API_KEY" if api_key else "TIDEMILL_TOKEN"
        return Access(server, token, api_key, f"{source}, {by}")
    kept = keep_of(server, places).get(server)
    if kept is None:
        return Access(server, source=source)
    where = "the keyring" if server.keyring else str(places.credentials)
    return Access(server, kept.token, kept.api_key, f"{source}, {where}", kept.username)


def within_instance(path: Path) -> Access | None:
    """What the server told this instance; None outside of one, or where it was not told."""
    told = by_instance(path)
    if told is None:
        return None
    server = Server("self", servers.checked_url(told.url))
    return Access(server, None, told.api_key, str(path), "", told.instance)
