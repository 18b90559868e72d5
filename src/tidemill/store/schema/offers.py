"""What is offered: regions, images and types of instances."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Integer, String, Table, Text

from tidemill.store.schema.columns import Instant, metadata

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
