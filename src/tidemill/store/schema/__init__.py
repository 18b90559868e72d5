"""The tables. Invariants live here first: keys and checks before code.

One module for each subject, all in one ``metadata``, which is whole only when every one of them is
imported: so whoever uses a table takes it from here. Instants are whole microseconds since 1970 in UTC;
money is whole micro-units.
"""

from __future__ import annotations

from tidemill.store.schema.columns import EPOCH, MICROSECOND, Instant, Notices, Words, metadata
from tidemill.store.schema.deployment import facts, findings, servers
from tidemill.store.schema.launches import events, instances, launch_keys
from tidemill.store.schema.machines import devices, node_ports, nodes, reservations
from tidemill.store.schema.money import entries, holds, ledger_accounts, meters, spend_caps, tariffs, wallets
from tidemill.store.schema.offers import images, instance_types, regions
from tidemill.store.schema.people import api_keys, login_failures, ssh_keys, users

__all__ = [
    "EPOCH",
    "MICROSECOND",
    "Instant",
    "Notices",
    "Words",
    "api_keys",
    "devices",
    "entries",
    "events",
    "facts",
    "findings",
    "holds",
    "images",
    "instance_types",
    "instances",
    "launch_keys",
    "ledger_accounts",
    "login_failures",
    "metadata",
    "meters",
    "node_ports",
    "nodes",
    "regions",
    "reservations",
    "servers",
    "spend_caps",
    "ssh_keys",
    "tariffs",
    "users",
    "wallets",
]
