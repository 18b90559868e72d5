"""Idempotency keys of launches: the same key again finds the same instance."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, select, text, tuple_

from tidemill.model.errors import Conflict
from tidemill.store.prepared import Prepared
from tidemill.store.schema import Instant, launch_keys

KEPT = timedelta(hours=24)
SWEEP_MOST = 100

# The same words on both databases. Whoever brings a key that another transaction is about to keep waits
# for its end. One that is too old to count is taken over.
_KEEP = Prepared(
    text(
        "INSERT INTO launch_keys (user_id, key, body_hash, instance_id, created_at) "
        "VALUES (:user_id, :key, :body_hash, :instance_id, :now) "
        "ON CONFLICT (user_id, key) DO UPDATE "
        "SET body_hash = excluded.body_hash, instance_id = excluded.instance_id, "
        "created_at = excluded.created_at "
        "WHERE launch_keys.created_at < :oldest"
    ).bindparams(bindparam("now", type_=Instant), bindparam("oldest", type_=Instant))
)
_EARLIER = Prepared(
    select(launch_keys.c.body_hash, launch_keys.c.instance_id).where(
        launch_keys.c.user_id == bindparam("of_user"), launch_keys.c.key == bindparam("given")
    )
)
_SWEEP = Prepared(
    delete(launch_keys).where(
        tuple_(launch_keys.c.user_id, launch_keys.c.key).in_(
            select(launch_keys.c.user_id, launch_keys.c.key)
            .where(launch_keys.c.created_at < bindparam("oldest", type_=Instant))
            .limit(SWEEP_MOST)
            .with_for_update(skip_locked=True)
        )
    )
)


def keep(
    connection: Connection, user_id: str, key: str, body_hash: str, instance_id: str, now: datetime
) -> str:
    """The instance that ``key`` launches: ``instance_id``, or the one it launched in the last 24 h.

    To be called before anything else of the launch is looked at: of two that come at the same moment with
    the last machine to give, the second is to get the first one's instance, and not to hear that there
    is none left. Raises Conflict for another body.
    """
    asked = {"user_id": user_id, "key": key, "body_hash": body_hash, "instance_id": instance_id, "now": now}
    if _KEEP.run(connection, asked | {"oldest": now - KEPT}) == 1:
        # Some of what is too old to count goes, so that the table stays small; this waits for nobody.
        _SWEEP.run(connection, {"oldest": now - KEPT})
        return instance_id
    ((hash_before, instance_before),) = _EARLIER.all(connection, {"of_user": user_id, "given": key})
    if hash_before != body_hash:
        raise Conflict(
            "This Idempotency-Key was used with another body in the last 24 hours; use a new key "
            "for a new launch, or send the first body again",
            code="idempotencyKeyReused",
        )
    return str(instance_before)
