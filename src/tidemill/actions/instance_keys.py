"""The key that an instance gets to its own row: made from a secret of the deployment, so kept nowhere.

The row has its hash alone, as it is with every API key. Whichever server starts the instance, and however
often, makes the same key out of ``keys/instances.secret`` and the instance's id, and puts it into a file
inside. The secret is made when it is first needed, and has to be the same for all servers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection

from tidemill.actions.identify import API_KEY_MARK, hash_of
from tidemill.logs import Logger
from tidemill.model.errors import Conflict, Misconfigured
from tidemill.model.instance import Instance
from tidemill.settings import Settings
from tidemill.store import facts

SECRET = "instances.secret"  # in the folder keys/ of the data folder  # noqa: S105 - a file's name
SECRET_BYTES = 32
KEY_MARK = API_KEY_MARK + "i_"
FINGERPRINT = "instance_keys"  # the fact that says which secret is the deployment's

log = Logger("keys")


def new_key_hash(connection: Connection, settings: Settings, instance_id: str) -> str:
    """What is kept of a new instance's key.

    Raises Conflict where instances cannot reach the API, as far as the settings say, or this server has
    another secret than the others.
    """
    if url_for_instances(settings) is None:
        raise Conflict(
            "This server has no address that instances can reach, so a key would be of no use to them: its "
            "operator has to set instance_url (or public_url). Launch without instanceKey",
            code="instanceKeyUnavailable",
        )
    secret = _secret(settings, make=True)
    fingerprint = hashlib.sha256(b"fingerprint of " + secret).hexdigest()[:16]
    known = facts.get(connection, FINGERPRINT)
    if known is None:
        facts.put(connection, FINGERPRINT, fingerprint)
    elif known != fingerprint:
        raise Conflict(
            "This server cannot make keys of instances: its operator has to give it the file "
            f"keys/{SECRET} that the other servers have. Launch without instanceKey",
            code="instanceKeyUnavailable",
        )
    return hash_of(_key(secret, instance_id))


def access_of(settings: Settings, instance: Instance) -> Mapping[str, str]:
    """What is written into an instance for whoever calls the API from there; nothing for one without a key.

    Nothing as well, and a word in the log, where this server cannot make the key that the row has.
    """
    if instance.key_hash is None:
        return {}
    url = url_for_instances(settings)
    if url is None:
        log.error("no key for an instance: instance_url is not set at this server", instance=instance.id)
        return {}
    try:
        key = _key(_secret(settings, make=False), instance.id)
    except (OSError, Misconfigured) as error:
        log.error("no key for an instance: the secret cannot be read", instance=instance.id, why=str(error))
        return {}
    if hash_of(key) != instance.key_hash:
        log.error("no key for an instance: this server has another secret", instance=instance.id)
        return {}
    return {"TIDEMILL_URL": url, "TIDEMILL_API_KEY": key, "TIDEMILL_INSTANCE": instance.id}


def url_for_instances(settings: Settings) -> str | None:
    """How instances reach the API, without a slash at the end; None where no setting says it."""
    url = str(settings.instance_url or settings.public_url).rstrip("/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises ValueError
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable():
        return None
    return None if _is_this_machine(host) else url


def _is_this_machine(host: str) -> bool:
    """Whether a name or address means something else inside an instance: itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _key(secret: bytes, instance_id: str) -> str:
    made = hmac.digest(secret, b"key of " + instance_id.encode(), "sha256")
    return KEY_MARK + base64.urlsafe_b64encode(made).rstrip(b"=").decode("ascii")


def _secret(settings: Settings, *, make: bool) -> bytes:
    """Raises OSError, Misconfigured when it is readable by others or not what it should be."""
    folder = Path(settings.data_dir) / "keys"
    file = folder / SECRET
    if make and not file.exists():
        _make(folder, file)
    if file.stat().st_mode & 0o077:
        raise Misconfigured(f"{file} can be read by others; chmod 600 it")
    try:
        secret = bytes.fromhex(file.read_text("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise Misconfigured(f"{file} is not {SECRET_BYTES} bytes in hexadecimal")
    return secret


def _make(folder: Path, file: Path) -> None:
    """Whole under its name or not there; one that another process made at the same moment is as good."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f".new-{secrets.token_hex(8)}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_hex(SECRET_BYTES) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        try:
            os.link(new, file)
        except FileExistsError:
            return
    finally:
        new.unlink()
