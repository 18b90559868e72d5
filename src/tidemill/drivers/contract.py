"""The contract between the reconciler and whatever runs instances.

Rules, which ``tests/contract`` runs against every driver:

- Every call may happen twice, or again after a crash in the middle: a repeat is success.
- What is made has a name that is a function of instance and start number, and is labelled with
  deployment and instance, so that it can be found again without a database.
- "Nothing found" is an answer; "no answer" is an exception.
- Only :class:`Refused`, :class:`NoRoom` and :class:`Unreachable` are raised.
- A driver knows no SQL, no prices, no clock of the business, no settings beyond its own
  constructor arguments.
- Calls return as soon as the engine accepted the work: long work (an image pull) goes on in the
  driver, shows in :meth:`Driver.observe`, and announces itself through :meth:`Driver.changes`.
  So one call may do only the next step: ask again until what is seen is what is wanted.
- A call whose caller gives up (cancels) may still be carried out, also after a later one: what may
  change while an instance runs has a revision, and an older one never replaces a newer one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from tidemill.model.observation import InstanceId, Seen


class DriverError(Exception):
    """Something a driver says no with. ``str(error)`` is fit for the user's eyes."""


class Refused(DriverError):
    """Give up: the engine will never do this, and the message says why."""


class NoRoom(DriverError):
    """The node cannot hold this workload now: place it elsewhere or tell the user.

    ``node_port`` is the one of the workload's that somebody else has, where that is the reason.
    """

    def __init__(self, message: str, *, node_port: int | None = None) -> None:
        super().__init__(message)
        self.node_port = node_port


class Unreachable(DriverError):
    """The engine gave no answer: nothing is known, try later."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator of a node.

    ``id`` is what the engine calls it (an NVIDIA GPU's UUID); ``paths`` are device nodes to pass
    through as they are, for accelerators that need no runtime of their own. ``name`` is the
    model, as the catalogue shows it ("H100-SXM-80GB"). No two devices of a driver have the same ``id``.
    """

    id: str
    name: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A machine as its driver sees it. Memory and disk in MiB and GB (10^9 bytes)."""

    name: str
    cpu: float
    memory_mb: int
    disk_gb: int
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port inside the instance, published at ``node_port`` of the node."""

    port: int
    node_port: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything a driver needs to run one start of one instance.

    Attributes:
        id: the instance, ``notebook-<uuid4>``.
        start: 1 for the first start; a higher number than the one that runs asks for a restart.
        tenant: the owner's id; workloads of one tenant share a private network.
        hostname: a DNS label; other workloads of the tenant reach this one by it.
        image: an image reference as the engine understands it.
        env: variables added to the image's own.
        cpu: cores, fractions allowed. memory_mb, shm_mb: MiB. pids: the most processes.
        devices: accelerators given to it.
        ports: published ports; the one with ``port == 22`` is the guest's ssh server.
        data_disk_gb: size of the disk at /root/dataDisk in GB (10^9 bytes); 0 for a plain folder.
        authorized_keys: lines in OpenSSH's format; may change while the instance runs.
        notices: lines for whoever is inside (instant, kind, text); may change while the instance runs.
        revision: of authorized_keys and notices; the higher number has the later ones.
        access: how the API is called from inside, as names and values, with a secret; empty for not at all.
        host_key: the 32-byte seed of the instance's ed25519 ssh host key.
        init_script: run once, as root, at the first start; "" for none.
        node: the machine it was placed on, by its name; a driver that has only one need not look.
    """

    id: InstanceId
    start: int
    tenant: str
    hostname: str
    image: str
    cpu: float
    memory_mb: int
    shm_mb: int
    pids: int
    ports: tuple[Port, ...]
    authorized_keys: tuple[str, ...]
    host_key: bytes = field(repr=False)
    init_script: str = field(default="", repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    devices: tuple[Device, ...] = ()
    data_disk_gb: int = 0
    node: str = ""
    revision: int = 0
    notices: tuple[str, ...] = ()
    access: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Guest(Protocol):
    """What goes into every instance; built by ``tidemill.guest``, handed to a driver whole.

    Attributes:
        folder: the built guest on the host, to be mounted read-only at ``mount``.
        mount: ``/.tidemill``.
        files_mount: where the instance's own files go, read-only: ``/.tidemill/instance``. The
            driver replaces a changed file by an atomic rename inside the same folder.
        command: the first process of the instance; the image's own entry point is not run.
        init_exit_path: file in the instance's system disk that holds the init script's exit code
            in decimal (``-1``: interrupted) once it has ended.
    """

    folder: Path
    mount: str
    files_mount: str
    command: tuple[str, ...]
    init_exit_path: str

    def files(
        self,
        *,
        authorized_keys: Sequence[str],
        host_key: bytes,
        init_script: str,
        notices: Sequence[str] = (),
        access: Mapping[str, str] = {},
    ) -> Mapping[str, bytes]:
        """The instance's own files by name; all are secret enough for mode 0600."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do beyond the contract; the catalogue offers only that."""

    data_disks: bool
    logs: bool
    devices: bool


class Driver(Protocol):
    """Runs workloads on one engine. See the module's rules."""

    capabilities: Capabilities

    async def nodes(self) -> list[Node]:
        """The machines behind this driver. Raises Unreachable."""
        ...

    async def observe(self) -> Mapping[InstanceId, Seen]:
        """Everything of this deployment that the engine has, in one listing. Raises Unreachable.

        What it shows running still ran when it was called: meters are billed until then.
        What runs says which devices it has, also what no instance wants: they are given to nobody else.
        """
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields whenever looking again may pay; a hint that carries no data and may be lost."""
        ...

    async def ensure_running(self, workload: Workload) -> None:
        """Bring ``workload.start`` up, or bring its keys up to date when it runs already.

        An older start that still runs is stopped first. An exited ``workload.start`` is left as
        it is: the caller asks for a new start number to have it started again.
        Raises Refused, NoRoom, Unreachable.
        """
        ...

    async def ensure_stopped(self, id: InstanceId) -> bool:
        """Stop it and keep its disks; whether nothing of it runs any more.

        False while its end, which was accepted, takes its time: whatever a listing says, it still has
        what it was given. Nothing there, or stopped already, is success. Raises Refused, Unreachable.
        """
        ...

    async def ensure_absent(self, id: InstanceId) -> None:
        """Remove it with its disks, folders, mounts and keys. Nothing there is success."""
        ...

    async def close(self) -> None:
        """Let go of connections and background work; what runs goes on running."""
        ...


@runtime_checkable
class Logs(Protocol):
    """A driver that can show what an instance printed."""

    def logs(self, id: InstanceId, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """The init script's and the console's output, oldest first; ``tail`` lines at most.

        Raises Unreachable. Yields nothing when the instance has never been started.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trace:
    """Something of this deployment that a machine keeps and :meth:`Driver.observe` does not show.

    Attributes:
        kind: what it is, in a word or two ("disk", "network"); "instance" is taken.
        name: what the machine calls it; with ``kind`` it names one thing.
        instance: whose it is; "" for what belongs to a tenant, or to nobody.
        tenant: for what belongs to a tenant as a whole, whose it is.
    """

    kind: str
    name: str
    instance: InstanceId = ""
    tenant: str = ""


@runtime_checkable
class Traces(Protocol):
    """A driver whose machine may keep more than it shows: what a crash left, or a stranger's hand."""

    async def traces(self) -> Sequence[Trace]:
        """All there is of this deployment, what is in use too: the caller knows what is wanted.

        Raises Unreachable.
        """
        ...

    def shows(self, kind: str, name: str) -> bool:
        """Whether :meth:`traces` would have shown it: files of another server's folder it would not."""
        ...

    async def erase(self, trace: Trace) -> None:
        """Remove it, unless it came into use meanwhile. Nothing there is success; that it stays is not.

        Raises Refused, with why it stays, and Unreachable.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine says of itself: its version, its clock, and the room where system disks are kept."""

    version: str
    at: datetime | None = None
    folder: str = ""
    free_gb: float | None = None


@runtime_checkable
class Reports(Protocol):
    """A driver whose engine can be asked how it is."""

    async def report(self) -> EngineReport:
        """Raises Unreachable."""
        ...


@runtime_checkable
class Publishes(Protocol):
    """A driver whose engine can be asked which ports it really has published."""

    async def published(self) -> Mapping[InstanceId, frozenset[Port]]:
        """The ports of everything of this deployment that runs; nothing for what does not.

        Raises Unreachable.
        """
        ...
