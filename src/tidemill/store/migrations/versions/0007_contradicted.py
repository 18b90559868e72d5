"""Finding the meters that a listing contradicted looks at no others, however many are open

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_meters_contradicted",
        "meters",
        ["seen_until"],
        unique=False,
        sqlite_where=sa.text("seen_until IS NOT NULL AND closed_at IS NULL"),
        postgresql_where=sa.text("seen_until IS NOT NULL AND closed_at IS NULL"),
    )
