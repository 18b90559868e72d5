"""The deployment itself: what is known about it, its servers, and what they found astray."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Float, Index, String, Table, Text

from tidemill.store.schema.columns import Instant, Sequence, Words, metadata, only

facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
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
    Index("uq_findings_open", "region_id", "kind", "name", unique=True, **only("ended_at IS NULL")),
    CheckConstraint("(ended_at IS NULL) = (outcome = '')", name="ended"),
)
