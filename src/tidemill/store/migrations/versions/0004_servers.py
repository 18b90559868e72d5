"""Servers that are there, and leases that end with them

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "servers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("place", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("token_keys", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_servers")),
    )
    op.add_column(
        "instances",
        sa.Column(
            "leased_to",
            sa.String(length=64),
            sa.ForeignKey("servers.id", name=op.f("fk_instances_leased_to")),
            nullable=True,
        ),
        inline_references=op.get_bind().dialect.name == "sqlite",  # it can add none later,
    )
    op.drop_column("instances", "lease_until")
    op.drop_column("instances", "lease_owner")
    op.create_index(
        "ix_instances_leased_to",
        "instances",
        ["leased_to"],
        unique=False,
        sqlite_where=sa.text("leased_to IS NOT NULL"),
        postgresql_where=sa.text("leased_to IS NOT NULL"),
    )
