"""The ssh keys that open a user's instances, running ones included."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.identify import require_login
from tidemill.actions.public_keys import read_public_key
from tidemill.model.account import Caller, SshKey
from tidemill.model.errors import NotFound
from tidemill.store import accounts, fleet


async def create_ssh_key(context: Context, caller: Caller, *, name: str | None, public_key: str) -> SshKey:
    """Add a key; without ``name`` it is called by its comment, else its fingerprint.

    Raises Invalid (not a usable key), Conflict (there already), Forbidden (too many; an API key
    asks).
    """
    require_login(caller)
    read = read_public_key(public_key)
    now = context.clock.now()
    key = SshKey(str(uuid4()), name or read.comment or read.fingerprint, read.line, read.fingerprint, now)

    def work(connection: Connection) -> None:
        accounts.add_ssh_key(connection, caller.user.id, key)
        fleet.touch_for_user(connection, caller.user.id, now)

    await context.database.write(work)
    context.wake.set()
    return key


async def list_ssh_keys(context: Context, caller: Caller) -> list[SshKey]:
    """The caller's keys, oldest first."""
    return await context.database.read(lambda connection: accounts.ssh_keys(connection, caller.user.id))


async def delete_ssh_key(context: Context, caller: Caller, key_id: str) -> None:
    """Remove a key, also from running instances. Raises NotFound, Forbidden when an API key asks."""
    require_login(caller)
    now = context.clock.now()

    def work(connection: Connection) -> None:
        if not accounts.delete_ssh_key(connection, caller.user.id, key_id):
            raise NotFound("ssh key not found", code="sshKeyNotFound")
        fleet.touch_for_user(connection, caller.user.id, now)

    await context.database.write(work)
    context.wake.set()
