"""Money: prices with their history, a ledger, holds, and what a meter has posted

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ONLY_ADDED = "entries of the ledger are only ever added"


def upgrade() -> None:
    op.create_table(
        "spend_caps",
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("per", sa.String(length=8), nullable=False),
        sa.Column("limit_micro", sa.BigInteger(), nullable=False),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "per", name=op.f("pk_spend_caps")),
    )
    op.create_table(
        "tariffs",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("type_id", sa.String(length=64), nullable=False),
        sa.Column("region_id", sa.String(length=64), nullable=False),
        sa.Column("charge_mode", sa.String(length=16), nullable=False),
        sa.Column("is_spot", sa.Boolean(), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False),
        sa.Column("bands", sa.JSON(), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.CheckConstraint("price_micro >= 0", name=op.f("ck_tariffs_price")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tariffs")),
    )
    op.create_index(
        "ix_tariffs_offer", "tariffs", ["type_id", "region_id", "charge_mode", "is_spot", "id"], unique=False
    )

    op.create_table(
        "ledger_accounts",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=True),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.String(length=255), server_default="", nullable=False),
        sa.CheckConstraint("amount_micro >= 0", name=op.f("ck_ledger_accounts_floor")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_ledger_accounts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_accounts")),
    )
    op.create_index(op.f("ix_ledger_accounts_user_id"), "ledger_accounts", ["user_id"], unique=False)

    op.create_table(
        "wallets",
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("look_at", sa.BigInteger(), nullable=True),
        sa.Column("told_hours", sa.Integer(), nullable=True),
        sa.Column("dry_since", sa.BigInteger(), nullable=True),
        sa.Column("monthly_credit_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_wallets_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_wallets")),
    )
    op.create_index(op.f("ix_wallets_look_at"), "wallets", ["look_at"], unique=False)

    op.create_table(
        "entries",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("posting_id", sa.String(length=160), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("debit_account", sa.String(length=96), nullable=False),
        sa.Column("credit_account", sa.String(length=96), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("instance_id", sa.String(length=64), nullable=True),
        sa.Column("meter_id", sa.BigInteger(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("corrects", sa.String(length=160), nullable=True),
        sa.Column("memo", sa.String(length=500), server_default="", nullable=False),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_entries_amount")),
        sa.ForeignKeyConstraint(
            ["credit_account"], ["ledger_accounts.id"], name=op.f("fk_entries_credit_account")
        ),
        sa.ForeignKeyConstraint(
            ["debit_account"], ["ledger_accounts.id"], name=op.f("fk_entries_debit_account")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_entries")),
        sa.UniqueConstraint("posting_id", "line", name=op.f("uq_entries_posting_id_line")),
    )
    op.create_index("ix_entries_instance", "entries", ["instance_id", "seq"], unique=False)
    op.create_index("ix_entries_user", "entries", ["user_id", "seq"], unique=False)

    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("instance_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=False),
        sa.Column("settle_at", sa.BigInteger(), nullable=True),
        sa.Column("capture", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=16), server_default="", nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome = '')", name=op.f("ck_holds_ended")),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_holds_amount")),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"], name=op.f("fk_holds_instance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(
        "ix_holds_settle_at",
        "holds",
        ["settle_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL AND settle_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NULL AND settle_at IS NOT NULL"),
    )
    op.create_index("ix_holds_user", "holds", ["user_id"], unique=False)
    op.create_index(
        "uq_holds_open",
        "holds",
        ["instance_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )

    op.add_column("instances", sa.Column("tariff_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "instances",
        sa.Column("disk_price_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("instances", sa.Column("api_key_id", sa.String(length=36), nullable=True))
    op.add_column("instances", sa.Column("max_spend_micro", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("stop_after_seconds", sa.Integer(), nullable=True))
    op.add_column("instances", sa.Column("stop_at", sa.BigInteger(), nullable=True))
    op.add_column(
        "instances", sa.Column("auto_renew", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("instances", sa.Column("term_began_at", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("term_ends_at", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("timer_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_instances_timer_at",
        "instances",
        ["timer_at"],
        unique=False,
        sqlite_where=sa.text("timer_at IS NOT NULL"),
        postgresql_where=sa.text("timer_at IS NOT NULL"),
    )

    op.add_column("meters", sa.Column("kind", sa.String(length=16), server_default="compute", nullable=False))
    op.add_column("meters", sa.Column("user_id", sa.String(length=36), server_default="", nullable=False))
    op.add_column(
        "meters", sa.Column("rate_most", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("meters", sa.Column("posted_until", sa.BigInteger(), nullable=True))
    op.add_column(
        "meters", sa.Column("posted_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "meters", sa.Column("posted_rest", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("meters", sa.Column("post_at", sa.BigInteger(), nullable=True))
    op.drop_index(op.f("uq_meters_open"), table_name="meters", sqlite_where=sa.text("closed_at IS NULL"))
    op.create_index(
        "uq_meters_open",
        "meters",
        ["instance_id", "kind"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index("ix_meters_instance", "meters", ["instance_id", "kind"], unique=False)
    op.create_index(
        "ix_meters_costs_of_user",
        "meters",
        ["user_id"],
        unique=False,
        sqlite_where=sa.text("closed_at IS NULL AND rate_most > 0"),
        postgresql_where=sa.text("closed_at IS NULL AND rate_most > 0"),
    )
    op.create_index(
        "ix_meters_post_at",
        "meters",
        ["post_at"],
        unique=False,
        sqlite_where=sa.text("post_at IS NOT NULL"),
        postgresql_where=sa.text("post_at IS NOT NULL"),
    )

    op.add_column("regions", sa.Column("zone", sa.String(length=64), server_default="UTC", nullable=False))

    op.execute("UPDATE meters SET user_id = (SELECT user_id FROM instances WHERE id = meters.instance_id)")
    _only_added()


def _only_added() -> None:
    """Let the database itself refuse to change or delete an entry."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER entries_no_{verb} BEFORE {verb.upper()} ON entries "
                f"BEGIN SELECT RAISE(ABORT, '{ONLY_ADDED}'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION entries_only_added() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{ONLY_ADDED}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER entries_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION entries_only_added()"
    )
