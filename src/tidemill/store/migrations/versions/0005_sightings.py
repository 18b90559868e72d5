"""When a region's instances were last seen, so that a meter ends with what was seen

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("regions", sa.Column("seen_at", sa.BigInteger(), nullable=True))
    op.add_column("meters", sa.Column("seen_until", sa.BigInteger(), nullable=True))
