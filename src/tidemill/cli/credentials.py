"""What this command proves itself with, for each server: a file of its owner's, or the system's keyring.

The file is made with mode 0600 before anything is in it, and is replaced as a whole. A credential is kept
with the address that it was got from, and given to no other: neither a server's new address nor a variable of
the environment brings a token to somebody else.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from tidemill.cli.failures import Failure
from tidemill.cli.places import Places, alone, write_whole
from tidemill.cli.servers import Server

SERVICE = "tidemill"  # in the keyring


@dataclass(frozen=True, slots=True)
class Credential:
    """How one user is known at ``url``: an access token or an API key, one of them.

    ``api_key_id`` is that of a key that ``tidemill login`` made, so that ``logout`` can delete it.
    """

    url: str
    username: str
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    api_key_id: str | None = None


class Keep(Protocol):
    """Where credentials are."""

    def get(self, server: Server) -> Credential | None:
        """The one of this server at this address. Raises Failure where the keep cannot be read."""
        ...

    def put(self, server: Server, credential: Credential) -> None: ...

    def forget(self, server: Server) -> None: ...


def keep_of(server: Server, places: Places) -> Keep:
    """Where the credentials of a server are kept. Raises Failure when that is a keyring that is not there."""
    return KeyringKeep() if server.keyring else FileKeep(places.credentials)


@dataclass(frozen=True, slots=True)
class FileKeep:
    """A file of this user's alone. Its rights are made narrow again, with a word, where they are not."""

    path: Path

    def get(self, server: Server) -> Credential | None:
        return _credential(server, self._read().get(server.name))

    def put(self, server: Server, credential: Credential) -> None:
        self._change(lambda all: {**all, server.name: _written(credential)})

    def forget(self, server: Server) -> None:
        if server.name in self._read():
            self._change(lambda all: {name: each for name, each in all.items() if name != server.name})

    def _change(self, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        with alone(self.path):
            write_whole(self.path, json.dumps(change(self._read()), indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        with open(descriptor, encoding="utf-8") as file:
            self._narrow(descriptor)
            try:
                read = json.load(file)
            except ValueError:
                read = None
        if not isinstance(read, dict):
            raise Failure(
                f"{self.path} cannot be read", code="badCredentials", next="Remove it and log in again"
            )
        return cast(dict[str, Any], read)

    def _narrow(self, descriptor: int) -> None:
        """Raises Failure when the file is another user's."""
        found = os.fstat(descriptor)
        if found.st_uid not in {os.geteuid(), 0}:
            raise Failure(f"{self.path} belongs to another user; it is not read", code="badCredentials")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
            print(
                f"tidemill: {self.path} could be read by others; its mode is 0600 now. "
                "If others use this machine, log out and in again.",
                file=sys.stderr,
            )


class KeyringKeep:
    """The system's keyring, by the library ``keyring``, which is an extra of this package."""

    def __init__(self) -> None:
        try:
            self._keyring: Any = import_module("keyring")
        except ImportError:
            raise Failure(
                "The keyring is not there: the library keyring is not installed",
                code="noKeyring",
                next="Install tidemill[keyring], or log in without --keyring",
            ) from None

    def get(self, server: Server) -> Credential | None:
        text = self._ask(lambda: self._keyring.get_password(SERVICE, server.name))
        return _credential(server, json.loads(text) if text else None)

    def put(self, server: Server, credential: Credential) -> None:
        text = json.dumps(_written(credential))
        self._ask(lambda: self._keyring.set_password(SERVICE, server.name, text))

    def forget(self, server: Server) -> None:
        if self._ask(lambda: self._keyring.get_password(SERVICE, server.name)):
            self._ask(lambda: self._keyring.delete_password(SERVICE, server.name))

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # the library's back ends raise what they like
            raise Failure(
                f"The keyring gives no answer: {error}",
                code="noKeyring",
                next="Unlock it, or log in without --keyring",
            ) from error


def _written(credential: Credential) -> dict[str, str]:
    return {name: value for name, value in asdict(credential).items() if value is not None}


def _credential(server: Server, written: Any) -> Credential | None:
    """What was written for this server, if that was at the address it has now."""
    if not isinstance(written, dict):
        return None
    said = cast(dict[str, Any], written)
    if said.get("url") != server.url:
        return None
    known = {name: str(said[name]) for name in Credential.__dataclass_fields__ if said.get(name)}
    if not {"token", "api_key"} & known.keys():
        return None
    return Credential(**({"username": ""} | known))
