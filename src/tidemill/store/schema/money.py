"""Prices, meters, the ledger, and what is held and watched."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    text,
)

from tidemill.store.schema.columns import Instant, Sequence, Words, metadata, only

# Prices with their history: rows are added and never changed; the newest of its kind holds. A row without
# a type is the price of a GB of data disk per hour.
tariffs = Table(
    "tariffs",
    metadata,
    Column("id", Sequence, primary_key=True, autoincrement=True),
    Column("type_id", String(64), nullable=False),
    Column("region_id", String(64), nullable=False),
    Column("charge_mode", String(16), nullable=False),
    Column("is_spot", Boolean, nullable=False),
    Column("price_micro", BigInteger, nullable=False),
    Column("bands", JSON, nullable=False),
    Column("zone", String(64), nullable=False),
    Column("valid_from", Instant, nullable=False),
    Column("source", String(16), nullable=False),
    Index("ix_tariffs_offer", "type_id", "region_id", "charge_mode", "is_spot", "id"),
    CheckConstraint("price_micro >= 0", name="price"),
)

meters = Table(
    "meters",
    metadata,
    Column("id", Sequence, primary_key=True, autoincrement=True),
    Column("instance_id", String(64), ForeignKey("instances.id"), nullable=False),
    Column("start", Integer, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("seen_until", Instant),
    Column("kind", String(16), nullable=False, server_default="compute"),
    Column("user_id", String(36), nullable=False, server_default=""),
    Column("rate_most", BigInteger, nullable=False, server_default=text("0")),
    Column("posted_until", Instant),
    Column("posted_micro", BigInteger, nullable=False, server_default=text("0")),
    Column("posted_rest", BigInteger, nullable=False, server_default=text("0")),
    Column("post_at", Instant),
    Index("ix_meters_post_at", "post_at", "id", **only("post_at IS NOT NULL")),
    # What a user owes is in one of these two. SQLite writes an index anew whenever a column that its WHERE
    # names is written, and every charge writes post_at: one index for both was half of what a charge wrote.
    Index("ix_meters_open", "user_id", **only("closed_at IS NULL")),
    Index("ix_meters_unposted", "user_id", **only("closed_at IS NOT NULL AND post_at IS NOT NULL")),
    Index("ix_meters_instance", "instance_id", "kind"),
    Index("uq_meters_open", "instance_id", "kind", unique=True, **only("closed_at IS NULL")),
    Index("ix_meters_contradicted", "seen_until", **only("seen_until IS NOT NULL AND closed_at IS NULL")),
    CheckConstraint("closed_at IS NULL OR closed_at >= opened_at", name="closed_after_opened"),
)

# Accounts of users have what they hold in ``amount_micro``, which no posting can take below zero; our own
# have none: theirs is what their entries add up to.
ledger_accounts = Table(
    "ledger_accounts",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("user_id", String(36), ForeignKey("users.id"), index=True),
    Column("kind", String(16), nullable=False),
    Column("amount_micro", BigInteger),
    Column("opened_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("name", String(255), nullable=False, server_default=""),
    CheckConstraint("amount_micro >= 0", name="floor"),
)

# The ledger. A row moves one amount from one account to another, so that what a posting takes is what it
# gives, however many rows it has; triggers (migration 0008) let nobody change or delete one.
entries = Table(
    "entries",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("posting_id", String(160), nullable=False),
    Column("line", Integer, nullable=False),
    Column("at", Instant, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("debit_account", String(96), ForeignKey("ledger_accounts.id"), nullable=False),
    Column("credit_account", String(96), ForeignKey("ledger_accounts.id"), nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("instance_id", String(64)),
    Column("meter_id", BigInteger),
    Column("since", Instant),
    Column("until", Instant),
    Column("corrects", String(160)),
    Column("memo", Words(500), nullable=False, server_default=""),
    UniqueConstraint("posting_id", "line"),
    CheckConstraint("amount_micro > 0", name="amount"),
    Index("ix_entries_user", "user_id", "seq"),
    Index("ix_entries_instance", "instance_id", "seq"),
)

# Money set aside for a start: ``parts`` says from which accounts, as pairs of account and amount.
holds = Table(
    "holds",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("instance_id", String(64), ForeignKey("instances.id"), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("held_at", Instant, nullable=False),
    Column("settle_at", Instant),
    Column("capture", Boolean, nullable=False, server_default=text("false")),
    Column("ended_at", Instant),
    Column("outcome", String(16), nullable=False, server_default=""),
    Index("uq_holds_open", "instance_id", unique=True, **only("ended_at IS NULL")),
    Index("ix_holds_settle_at", "settle_at", **only("ended_at IS NULL AND settle_at IS NOT NULL")),
    Index("ix_holds_user", "user_id"),
    CheckConstraint("(ended_at IS NULL) = (outcome = '')", name="ended"),
    CheckConstraint("amount_micro > 0", name="amount"),
)

# When somebody's money is to be looked at, and what they were told of it.
wallets = Table(
    "wallets",
    metadata,
    Column("user_id", String(36), ForeignKey("users.id"), primary_key=True),
    Column("look_at", Instant, index=True),
    Column("told_hours", Integer),
    Column("dry_since", Instant),  # read by nobody; a server of the version before still writes it
    Column("monthly_credit_micro", BigInteger, nullable=False, server_default=text("0")),
)

spend_caps = Table(
    "spend_caps",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("per", String(8), primary_key=True),
    Column("limit_micro", BigInteger, nullable=False),
    Column("set_at", Instant, nullable=False),
)
