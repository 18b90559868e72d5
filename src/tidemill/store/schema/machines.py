"""The machines that instances run on, and what is given out of them.

One device belongs to at most one instance (``devices.instance_id`` is set by a guarded update of one
row), one node port to one instance (primary key), and what is given out of a node never exceeds what it
has (guarded update and CHECK).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
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

from tidemill.store.schema.columns import Words, metadata

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
