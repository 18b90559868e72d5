"""What somebody's meters owe, found by indexes that a charge leaves alone

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

OPEN = sa.text("closed_at IS NULL")
UNPOSTED = sa.text("closed_at IS NOT NULL AND post_at IS NOT NULL")


def upgrade() -> None:
    for name, where in (("ix_meters_open", OPEN), ("ix_meters_unposted", UNPOSTED)):
        op.create_index(name, "meters", ["user_id"], unique=False, sqlite_where=where, postgresql_where=where)
    op.drop_index("ix_meters_owing", table_name="meters")
