"""Idempotency keys of launches: the same key again finds the same instance."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from tidemill.model.errors import Conflict
from tidemill.store.schema import launch_keys

KEPT = timedelta(hours=24)


def find(connection: Connection, user_id: str, key: str, body_hash: str, now: datetime) -> str | None:
    """The instance that ``key`` launched in the last 24 h. Raises Conflict for another body."""
    connection.execute(delete(launch_keys).where(launch_keys.c.created_at < now - KEPT))
    row = connection.execute(
        select(launch_keys.c.body_hash, launch_keys.c.instance_id).where(
            launch_keys.c.user_id == user_id, launch_keys.c.key == key
        )
    ).first()
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise Conflict(
            "This Idempotency-Key was used with another body in the last 24 hours; use a new key "
            "for a new launch, or send the first body again",
            code="idempotencyKeyReused",
        )
    return row.instance_id


def keep(
    connection: Connection, user_id: str, key: str, body_hash: str, instance_id: str, now: datetime
) -> None:
    """Remember what ``key`` launched, in the transaction of the launch."""
    connection.execute(
        insert(launch_keys),
        {
            "user_id": user_id,
            "key": key,
            "body_hash": body_hash,
            "instance_id": instance_id,
            "created_at": now,
        },
    )
