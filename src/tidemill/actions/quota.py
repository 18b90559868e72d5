"""What one user may have at a time."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.model.errors import Forbidden
from tidemill.settings import Settings
from tidemill.store import accounts, fleet


def check_quota(
    connection: Connection, settings: Settings, user_id: str, *, new_instances: int, new_gpus: int
) -> None:
    """Raises Forbidden when this much more is too much, naming the quota, its limit and its use."""
    limits = (settings.quota_instances, settings.quota_gpus)
    if not any(limits):
        return
    accounts.take_turn(connection, user_id)
    used = fleet.in_use(connection, user_id)
    for name, limit, use, more in zip(
        ("instances", "GPUs"), limits, used, (new_instances, new_gpus), strict=True
    ):
        if limit and more and use + more > limit:
            raise Forbidden(
                f"quota {name}: the limit is {limit}, {use} are in use and this needs {more} more; "
                "terminate what you no longer need, or ask the operator to raise it",
                code="overQuota",
            )
