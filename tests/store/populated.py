"""A deployment as it was kept at the first revision of the schema, with something in every table.

Written down as rows and not made by the code, which knows only the newest schema. What later revisions
added gets its data from :func:`fill`, so that every revision is run on a database where nothing is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    insert,
    update,
)

Rows = Sequence[Mapping[str, Any]]

AT = 1_772_366_400_000_000
USERS = ("3b7f0a52-90c1-4c7e-9d1c-6d4a5f0e0001", "3b7f0a52-90c1-4c7e-9d1c-6d4a5f0e0002")
REGION = "0f5a2c1e-0000-4000-8000-000000000001"
NODES = ("9a1e5c3c-0000-4000-8000-000000000001", "9a1e5c3c-0000-4000-8000-000000000002")
STATES = (  # state, whether it holds its share of the machine, whether its meter runs
    ("Initializing", True, False),
    ("PullingImage", True, False),
    ("Starting", True, False),
    ("Running", True, True),
    ("Restarting", True, True),
    ("Stopping", True, False),
    ("Stopped", False, False),
    ("StartingFailed", False, False),
    ("InitializationFailed", False, False),
    ("Terminating", True, False),
    ("Released", False, False),
)


def _instance(number: int, state: str) -> dict[str, Any]:
    return {
        "id": f"notebook-{number:08d}-0000-4000-8000-000000000000",
        "user_id": USERS[number % 2],
        "name": ("größer als Ärger", "my instance", "ÇA VA 100%_\\")[number % 3],
        "hostname": f"host-{number}",
        "region_id": REGION,
        "node_id": NODES[number % 2],
        "type_id": "0f5a2c1e-0000-4000-8000-000000000004",
        "type_name": "1x H100",
        "image_id": "0f5a2c1e-0000-4000-8000-000000000002",
        "image_name": "Debian 12",
        "image_reference": "tidemill/debian:12",
        "cpu_milli": 2000,
        "memory_mb": 4096,
        "shm_mb": 1024,
        "pids": 4096,
        "gpu_name": "H100",
        "gpu_num": 1 if number == 3 else 0,
        "charge_mode": ("perHour", "tidePerHour", "perWeek")[number % 3],
        "duration": 1,
        "price_micro": 9_007_199_254_740_993,  # more than a float can tell from its neighbour
        "is_spot": number % 2 == 1,
        "data_disk_gb": number,
        "enable_common_data": False,
        "enable_docker": True,
        "docker_storage_gb": 0,
        "init_script": "#!/bin/sh\necho 'it''s ;-- \u00fc\u4e2d'\n",
        "env": {"KEY": "värde", "EMPTY": ""},
        "ssh_key_ids": [None, [], ["k1", "k2"]][number % 3],
        "host_key": bytes(range(32)),
        "created_at": AT + number,
        "state": state,
        "state_since": AT + 10 * number,
        "reason": "Overdue" if number == 5 else "",
        "message": "took too long" if number == 5 else "",
        "start": 1 + number,
        "version": 3 + number,
        "due_at": None if state in {"Running", "Stopped", "Released"} else AT + number,
        "not_before": AT if state == "Restarting" else None,
        "lease_until": AT + 60_000_000 if number == 0 else None,
        "lease_owner": "gpu-box-1-abcdef" if number == 0 else None,
        "failures": number % 4,
        "revision": 2,
        "applied_revision": 1,
        "progress": 42 if state == "PullingImage" else None,
        "init_exit": 3 if state == "Running" else None,
        "started_at": AT if state in {"Running", "Stopped"} else None,
    }


_INSTANCES = [_instance(number, row[0]) for number, row in enumerate(STATES)]
_HOLDING = [each for each, row in zip(_INSTANCES, STATES, strict=True) if row[1]]

FIRST: Mapping[str, Rows] = {
    "facts": [{"name": "deployment", "value": "d3adbeef"}],
    "users": [
        {
            "id": id,
            "username": name,
            "password_hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
            "is_admin": name == "admin",
            "token_epoch": 7,
            "created_at": AT,
        }
        for id, name in zip(USERS, ("admin", "zoë"), strict=True)
    ],
    "api_keys": [
        {
            "id": f"key-{number}",
            "user_id": USERS[number],
            "name": "laptop",
            "hash": f"{number:064x}",
            "hint": "tdm_abc...",
            "scope": "full",
            "created_at": AT,
            "expires_at": expires,
        }
        for number, expires in enumerate((None, AT + 1))
    ],
    "ssh_keys": [
        {
            "id": "k1",
            "user_id": USERS[0],
            "name": "laptop",
            "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA zoë@laptop",
            "fingerprint": "SHA256:abc",
            "created_at": AT,
        }
    ],
    "login_failures": [{"subject": "address:192.0.2.1", "failures": 3, "last_at": AT}],
    "regions": [
        {
            "id": REGION,
            "name": "local",
            "ssh_address": "gpu.example.org",
            "driver": "docker",
            "offered": True,
            "position": 0,
        }
    ],
    "images": [
        {
            "id": "0f5a2c1e-0000-4000-8000-000000000002",
            "name": "Debian 12",
            "reference": "tidemill/debian:12",
            "description": "",
            "offered": True,
            "position": 0,
        }
    ],
    "instance_types": [
        {
            "id": "0f5a2c1e-0000-4000-8000-000000000004",
            "name": "1x H100",
            "cpu_milli": 2000,
            "memory_mb": 4096,
            "shm_mb": 1024,
            "pids": 4096,
            "gpu_name": "H100",
            "gpu_num": 1,
            "prices": {"perHour": 2_000_000, "perWeek": 9_007_199_254_740_993},
            "spot": True,
            "regions": [REGION],
            "offered": False,
            "position": 3,
        }
    ],
    "nodes": [
        {
            "id": id,
            "region_id": REGION,
            "name": f"node-{number}",
            "cpu_milli": 64_000,
            "memory_mb": 512_000,
            "disk_gb": 1000,
            "cpu_used": 2000 * sum(each["node_id"] == id for each in _HOLDING),
            "memory_used": 4096 * sum(each["node_id"] == id for each in _HOLDING),
            "present": number == 1,
        }
        for number, id in enumerate(NODES)
    ],
    "devices": [
        {
            "node_id": NODES[1],
            "device_id": f"GPU-{number}",
            "name": "H100",
            "paths": [f"/dev/nvidia{number}", "/dev/nvidiactl"],
            "present": True,
            "instance_id": _INSTANCES[3]["id"] if number == 0 else None,
        }
        for number in range(3)
    ],
    "instances": _INSTANCES,
    "reservations": [
        {"instance_id": each["id"], "node_id": each["node_id"], "cpu_milli": 2000, "memory_mb": 4096}
        for each in _HOLDING
    ],
    "node_ports": [
        {
            "node_id": each["node_id"],
            "node_port": 31_000 + 2 * number + index,
            "instance_id": each["id"],
            "port": port,
        }
        for number, each in enumerate(_INSTANCES)
        if each["state"] != "Released"
        for index, port in enumerate((22, 8888))
    ],
    "events": [
        {
            "instance_id": each["id"],
            "user_id": each["user_id"],
            "at": each["created_at"],
            "event": event,
            "from_state": "Initializing",
            "to_state": each["state"],
            "start": 1,
            "reason": "",
            "message": "",
        }
        for each in _INSTANCES
        for event in ("launch", "placed")
    ],
    "meters": [
        {
            "instance_id": each["id"],
            "start": start,
            "opened_at": AT + start,
            "closed_at": None if runs and start == 2 else AT + start,
        }
        for each, (_, _, runs) in zip(_INSTANCES, STATES, strict=True)
        for start in (1, 2)
    ],
    "launch_keys": [
        {
            "user_id": each["user_id"],
            "key": "order 66",
            "body_hash": "f" * 64,
            "instance_id": each["id"],
            "created_at": AT,
        }
        for each in _INSTANCES[:2]
    ],
}


def tables(connection: Connection) -> dict[str, Table]:
    """The tables that a database has, as it says itself."""
    found = MetaData()
    found.reflect(connection)
    return {table.name: table for table in found.sorted_tables if table.name != "alembic_version"}


def fill(connection: Connection, before: Mapping[str, Table]) -> None:
    """Put something into every table and column that was not there ``before``."""
    there = tables(connection)
    if not before:
        for name, table in there.items():
            connection.execute(insert(table), list(FIRST[name]))
        return
    for name, table in there.items():
        if name not in before:
            connection.execute(insert(table), _values(connection, table, there, table.c.keys()))
            continue
        new = [column.name for column in table.c if column.name not in before[name].c]
        if new:
            first = next(iter(table.primary_key.columns))
            least = connection.execute(table.select().order_by(first)).mappings().first()
            assert least is not None
            values = _values(connection, table, there, new)
            connection.execute(update(table).where(first == least[first.name]).values(values))


def _values(
    connection: Connection, table: Table, there: Mapping[str, Table], columns: Sequence[str]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in columns:
        column = table.columns[name]
        references = [key.target_fullname.split(".") for key in column.foreign_keys]
        if references:
            other = there[references[0][0]].columns[references[0][1]]
            made[name] = connection.execute(other.table.select()).mappings().all()[0][other.name]
        elif isinstance(column.type, JSON):
            made[name] = ["some"]
        elif isinstance(column.type, Boolean):
            made[name] = True
        elif isinstance(column.type, LargeBinary):
            made[name] = b"some"
        elif isinstance(column.type, Float):
            made[name] = 1.5
        elif isinstance(column.type, Integer) and not isinstance(column.type, BigInteger):
            made[name] = 7
        elif isinstance(column.type, Numeric) or column.type.python_type is int:
            made[name] = AT
        else:
            made[name] = "some"
    return made


def content(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in an order that does not depend on the database."""
    return {
        name: sorted(
            (dict(row) for row in connection.execute(table.select()).mappings()),
            key=lambda row: [str(row[column.name]) for column in table.primary_key.columns],
        )
        for name, table in tables(connection).items()
    }
