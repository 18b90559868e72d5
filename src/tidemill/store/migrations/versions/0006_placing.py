"""Placing an instance looks at a few nodes, however many there are

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_nodes_region_id", table_name="nodes")
    op.create_index("ix_nodes_region", "nodes", ["region_id", "id"], unique=False)
    op.create_index(
        "ix_devices_free",
        "devices",
        ["name", "node_id"],
        unique=False,
        sqlite_where=sa.text("present = 1 AND instance_id IS NULL"),
        postgresql_where=sa.text("present AND instance_id IS NULL"),
    )
