"""An instance as plain values: what was ordered, and the row that the whole house works on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.model.lifecycle import State
from tidemill.model.notice import Notice
from tidemill.model.offer import ChargeMode, Region

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asked for, checked for form but not yet against the catalogue.

    ``node_ports`` are ports inside the instance to publish besides ssh. Sizes in GB (10^9 bytes).
    ``ssh_key_ids`` is None for all keys of the account. ``instance_key`` asks for a key to the API inside.
    """

    name: str
    image_id: str
    type_id: str
    region_id: str
    charge_mode: ChargeMode
    duration: int
    node_ports: tuple[int, ...] = ()
    remote_storage_ids: tuple[str, ...] = ()
    data_disk_gb: int = 0
    enable_common_data: bool = False
    enable_docker: bool = False
    docker_storage_gb: int = 0
    init_script: str = field(default="", repr=False)
    is_spot: bool = False
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    ssh_key_ids: tuple[str, ...] | None = None
    auto_renew: bool = False
    max_spend_micro: int | None = None
    stop_after_seconds: int | None = None
    instance_key: bool = False


@dataclass(frozen=True, slots=True)
class NodePort:
    """``port`` inside the instance is reached at ``node_port`` of the region's address."""

    port: int
    node_port: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: the terms frozen at launch, and where it is now.

    Attributes:
        start: number of the present start; grows with every start of the same instance.
        version: grows with every write; a write names the version it saw.
        state_since: when the present state was entered; deadlines count from here.
        due_at: when the loop has to look at it again; None for at rest.
        not_before: no new start before this instant (the growing pause after ends of its process).
        failures: consecutive ends of the main process without a quiet while between.
        revision, applied_revision: what is wanted inside (keys, notices) against what the driver was given.
        price_micro: micro-units of the currency per period of the charge mode.
        progress: percent of the image pull, where known.
        tariff_id: the row of prices that holds for it; None for what was launched before there were any.
        disk_price_micro: micro-units per GB of data disk and hour.
        api_key_id: the key that launched it, None for none.
        max_spend_micro: it is stopped when it has cost this much.
        stop_after_seconds, stop_at: it is stopped so long after it was reachable, which is then.
        auto_renew: another term is bought when one ends.
        term_began_at, term_ends_at: when the first of its unbroken terms began that were bought in advance,
            and when the present one ends; None before the first.
        timer_at: when time does something to it, or tells its owner; None for never.
        notices: what somebody inside is to know.
        key_hash: of the key to the API that is inside; None for none.
        restored_from: the instant of the backup that the row came from, until it was compared with
            the engine; what the engine has by then was not brought about by this row.
    """

    id: str
    user_id: str
    name: str
    hostname: str
    region_id: str
    node_id: str
    type_id: str
    type_name: str
    image_id: str
    image_name: str
    image_reference: str
    cpu_milli: int
    memory_mb: int
    shm_mb: int
    pids: int
    gpu_name: str
    gpu_num: int
    charge_mode: ChargeMode
    duration: int
    price_micro: int
    is_spot: bool
    data_disk_gb: int
    enable_common_data: bool
    enable_docker: bool
    docker_storage_gb: int
    init_script: str = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    ssh_key_ids: tuple[str, ...] | None
    host_key: bytes = field(repr=False)
    created_at: datetime
    state: State
    state_since: datetime
    reason: str
    message: str
    start: int
    version: int
    due_at: datetime | None
    not_before: datetime | None
    failures: int
    revision: int
    applied_revision: int
    progress: int | None
    init_exit: int | None
    started_at: datetime | None
    restored_from: datetime | None = None
    tariff_id: int | None = None
    disk_price_micro: int = 0
    api_key_id: str | None = None
    max_spend_micro: int | None = None
    stop_after_seconds: int | None = None
    stop_at: datetime | None = None
    auto_renew: bool = False
    term_began_at: datetime | None = None
    term_ends_at: datetime | None = None
    timer_at: datetime | None = None
    notices: tuple[Notice, ...] = ()
    key_hash: str | None = None

    def in_term(self, at: datetime) -> bool:
        """Whether a term that was bought in advance lasts: its devices are kept through a stop."""
        return self.term_ends_at is not None and at < self.term_ends_at


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of an instance's history, in the order of ``seq``."""

    seq: int
    instance_id: str
    at: datetime
    event: str
    from_state: State
    to_state: State
    start: int
    reason: str
    message: str


def hostname_for(name: str, instance_id: str) -> str:
    """A DNS label for an instance: from its name where that has letters, else from its id."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return label or "i-" + instance_id.removeprefix("notebook-")[:12]


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance with what is shown beside it. ``host_key`` is its public ssh host key's line."""

    instance: Instance
    region: Region
    ports: tuple[NodePort, ...]
    host_key: str
