"""The tables. Invariants live here first: keys and checks before code.

One device belongs to at most one instance (``devices.instance_id`` is set by a guarded update of
one row), one node port to one instance (primary key), what is given out of a node never exceeds
what it has (guarded update and CHECK). Instants are whole microseconds since 1970 in UTC; money
is whole micro-units.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from tidemill.model.notice import Notice

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as whole microseconds: the same order and value on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


class Notices(TypeDecorator[tuple[Notice, ...]]):
    """What is told inside an instance, by kind; NULL for nothing, as nearly everywhere."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: tuple[Notice, ...] | None, dialect: Dialect) -> Any:
        return {each.kind: {"at": each.at.isoformat(), "text": each.text} for each in value or ()} or None

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[Notice, ...]:
        kept: dict[str, dict[str, str]] = value or {}
        return tuple(
            Notice(kind, datetime.fromisoformat(each["at"]), each["text"]) for kind, each in kept.items()
        )


class Words(TypeDecorator[str]):
    """Text that somebody else wrote (an engine, a registry), as both databases can keep it.

    PostgreSQL takes no NUL and nothing longer than the column, and neither takes half a character;
    words that cannot be kept must not keep an instance from ever being written again.
    """

    impl = Text
    cache_ok = True

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = most

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text() if self.most is None else String(self.most)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        kept = value[: self.most]
        if kept.isascii() and "\0" not in kept:
            return kept
        return kept.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


# SQLite counts rows by itself only for a column of type INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("username", String(255), nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("token_epoch", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Instant, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("hint", String(32), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
)

ssh_keys = Table(
    "ssh_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("user_id", "fingerprint"),
)

login_failures = Table(
    "login_failures",
    metadata,
    Column("subject", String(320), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_at", Instant, nullable=False, index=True),
)

regions = Table(
    "regions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("ssh_address", String(255), nullable=False),
    Column("driver", String(64), nullable=False),
    Column("offered", Boolean, nullable=False),
    Column("position", Integer, nullable=False),
    Column("seen_at", Instant),
    Column("zone", String(64), nullable=False, server_default="UTC"),
)

images = Table(
    "images",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("reference", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("offered", Boolean, nullable=False),
    Column("position", Integer, nullable=False),
)

instance_types = Table(
    "instance_types",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("cpu_milli", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("shm_mb", Integer, nullable=False),
    Column("pids", Integer, nullable=False),
    Column("gpu_name", String(255), nullable=False),
    Column("gpu_num", Integer, nullable=False),
    Column("prices", JSON, nullable=False),
    Column("spot", Boolean, nullable=False),
    Column("regions", JSON, nullable=False),
    Column("offered", Boolean, nullable=False),
    Column("position", Integer, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("region_id", String(64), ForeignKey("regions.id"), nullable=False),
    Column("name", Words(255), nullable=False),
    Column("cpu_milli", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("cpu_used", Integer, nullable=False, server_default=text("0")),
    Column("memory_used", Integer, nullable=False, server_default=text("0")),
    Column("present", Boolean, nullable=False),
    CheckConstraint("cpu_used >= 0", name="cpu_used"),
    CheckConstraint("memory_used >= 0", name="memory_used"),
    Index("ix_nodes_region", "region_id", "id"),
)

devices = Table(
    "devices",
    metadata,
    Column("node_id", String(64), ForeignKey("nodes.id"), primary_key=True),
    Column("device_id", Words(255), primary_key=True),
    Column("name", Words(255), nullable=False),
    Column("paths", JSON, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("instance_id", String(64), index=True),
    Index(
        "ix_devices_free",
        "name",
        "node_id",
        sqlite_where=text("present = 1 AND instance_id IS NULL"),
        postgresql_where=text("present AND instance_id IS NULL"),
    ),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("place", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("address", String(255), nullable=False),
    Column("token_keys", JSON, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("beats", BigInteger, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("hostname", String(63), nullable=False),
    Column("region_id", String(64), nullable=False),
    Column("node_id", String(36), nullable=False),
    Column("type_id", String(64), nullable=False),
    Column("type_name", String(255), nullable=False),
    Column("image_id", String(64), nullable=False),
    Column("image_name", String(255), nullable=False),
    Column("image_reference", Text, nullable=False),
    Column("cpu_milli", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("shm_mb", Integer, nullable=False),
    Column("pids", Integer, nullable=False),
    Column("gpu_name", String(255), nullable=False),
    Column("gpu_num", Integer, nullable=False),
    Column("charge_mode", String(16), nullable=False),
    Column("duration", Integer, nullable=False),
    Column("price_micro", BigInteger, nullable=False),
    Column("is_spot", Boolean, nullable=False),
    Column("data_disk_gb", Integer, nullable=False),
    Column("enable_common_data", Boolean, nullable=False),
    Column("enable_docker", Boolean, nullable=False),
    Column("docker_storage_gb", Integer, nullable=False),
    Column("init_script", Text, nullable=False),
    Column("env", JSON, nullable=False),
    Column("ssh_key_ids", JSON),
    Column("host_key", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", String(32), nullable=False),
    Column("state_since", Instant, nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Words, nullable=False, server_default=""),
    Column("start", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("due_at", Instant),
    Column("not_before", Instant),
    Column("leased_to", String(64), ForeignKey("servers.id")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("revision", Integer, nullable=False, server_default=text("0")),
    Column("applied_revision", Integer, nullable=False, server_default=text("0")),
    Column("progress", Integer),
    Column("init_exit", Integer),
    Column("started_at", Instant),
    Column("restored_from", Instant),
    Column("tariff_id", BigInteger),
    Column("disk_price_micro", BigInteger, nullable=False, server_default=text("0")),
    Column("api_key_id", String(36)),
    Column("max_spend_micro", BigInteger),
    Column("stop_after_seconds", Integer),
    Column("stop_at", Instant),
    Column("auto_renew", Boolean, nullable=False, server_default=text("false")),
    Column("term_began_at", Instant),
    Column("term_ends_at", Instant),
    Column("timer_at", Instant),
    Column("notices", Notices),
    Index("ix_instances_owner", "user_id", "created_at", "id"),
    Index("ix_instances_due", "due_at"),
    Index("ix_instances_node", "node_id", "state"),
    Index(
        "ix_instances_timer_at",
        "timer_at",
        sqlite_where=text("timer_at IS NOT NULL"),
        postgresql_where=text("timer_at IS NOT NULL"),
    ),
    Index(
        "ix_instances_leased_to",
        "leased_to",
        sqlite_where=text("leased_to IS NOT NULL"),
        postgresql_where=text("leased_to IS NOT NULL"),
    ),
)

reservations = Table(
    "reservations",
    metadata,
    Column("instance_id", String(64), ForeignKey("instances.id"), primary_key=True),
    Column("node_id", String(64), ForeignKey("nodes.id"), nullable=False, index=True),
    Column("cpu_milli", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
)

node_ports = Table(
    "node_ports",
    metadata,
    Column("node_id", String(36), primary_key=True),
    Column("node_port", Integer, primary_key=True),
    Column("instance_id", String(64), ForeignKey("instances.id"), nullable=False),
    Column("port", Integer, nullable=False),
    UniqueConstraint("instance_id", "port"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("instance_id", String(64), ForeignKey("instances.id"), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("at", Instant, nullable=False),
    Column("event", String(32), nullable=False),
    Column("from_state", String(32), nullable=False),
    Column("to_state", String(32), nullable=False),
    Column("start", Integer, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("message", Words, nullable=False),
    Index("ix_events_instance", "instance_id", "seq"),
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
    Index(
        "ix_meters_post_at",
        "post_at",
        "id",
        sqlite_where=text("post_at IS NOT NULL"),
        postgresql_where=text("post_at IS NOT NULL"),
    ),
    Index(
        "ix_meters_owing",
        "user_id",
        sqlite_where=text("post_at IS NOT NULL"),
        postgresql_where=text("post_at IS NOT NULL"),
    ),
    Index("ix_meters_instance", "instance_id", "kind"),
    Index(
        "uq_meters_open",
        "instance_id",
        "kind",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index(
        "ix_meters_contradicted",
        "seen_until",
        sqlite_where=text("seen_until IS NOT NULL AND closed_at IS NULL"),
        postgresql_where=text("seen_until IS NOT NULL AND closed_at IS NULL"),
    ),
    CheckConstraint("closed_at IS NULL OR closed_at >= opened_at", name="closed_after_opened"),
)

launch_keys = Table(
    "launch_keys",
    metadata,
    Column("user_id", String(36), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_hash", String(64), nullable=False),
    Column("instance_id", String(64), nullable=False),
    Column("created_at", Instant, nullable=False, index=True),
)

# What an engine has and no instance wants, from when it is first seen; ``watched`` counts the seconds.
findings = Table(
    "findings",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("region_id", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", Words(255), nullable=False),
    Column("instance_id", Words(64), nullable=False),
    Column("found_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("watched", Float, nullable=False),
    Column("message", Words, nullable=False),
    Column("ended_at", Instant, index=True),
    Column("outcome", String(16), nullable=False),
    Index(
        "uq_findings_open",
        "region_id",
        "kind",
        "name",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    CheckConstraint("(ended_at IS NULL) = (outcome = '')", name="ended"),
)

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
    Index(
        "uq_holds_open",
        "instance_id",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index(
        "ix_holds_settle_at",
        "settle_at",
        sqlite_where=text("ended_at IS NULL AND settle_at IS NOT NULL"),
        postgresql_where=text("ended_at IS NULL AND settle_at IS NOT NULL"),
    ),
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
    Column("dry_since", Instant),
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
