"""Indexes of what is to be posted: of whom, also what is closed, and in which order

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COSTS = sa.text("closed_at IS NULL AND rate_most > 0")
OWES = sa.text("post_at IS NOT NULL")


def upgrade() -> None:
    # A batch is the first few by both: without the second all that are due at one instant were sorted.
    op.drop_index("ix_meters_post_at", table_name="meters", sqlite_where=OWES, postgresql_where=OWES)
    op.create_index(
        "ix_meters_post_at",
        "meters",
        ["post_at", "id"],
        unique=False,
        sqlite_where=OWES,
        postgresql_where=OWES,
    )
    op.drop_index("ix_meters_costs_of_user", table_name="meters", sqlite_where=COSTS, postgresql_where=COSTS)
    op.create_index(
        "ix_meters_owing", "meters", ["user_id"], unique=False, sqlite_where=OWES, postgresql_where=OWES
    )
