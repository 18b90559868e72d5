"""From a workload to what the engine is told, and from what the engine lists back to what it is.

Pure: nothing here talks to an engine. Names and labels are the driver's only memory that
outlives it, so both directions stand side by side.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.drivers.contract import Guest, Port, Refused, Workload
from tidemill.model.observation import InstanceId

DEPLOYMENT = "tidemill.deployment"
INSTANCE = "tidemill.instance"
TENANT = "tidemill.tenant"
INIT = "tidemill.init"  # "1" when there is an init script
SHAPE = "tidemill.shape"  # what the engine fixes when it creates a container
DEVICES = "tidemill.devices"  # the ids of its accelerators, as a JSON array

SSH_PORT = 22
DATA_DISK = "/root/dataDisk"
DROPPED_CAPABILITIES = ("AUDIT_WRITE", "MKNOD", "NET_RAW")
LOG_LIMITS = {"max-size": "10m", "max-file": "2"}
MIB = 2**20

_NAME = re.compile(r"-(\d+)(\.starting)?$")
_STATUS = re.compile(r"^Exited \((-?\d+)\)")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")


@dataclass(frozen=True, slots=True)
class Found:
    """One container of ours, as a listing shows it.

    Attributes:
        container: the engine's own id of it.
        id: the instance. start: the start that its name speaks of.
        starting: it is between being an older start and being ``start``.
        state: the engine's word: created, running, paused, restarting, removing, exited, dead.
        devices: the ids of its accelerators.
        ports: what it has published; known while it runs.
    """

    container: str
    id: InstanceId
    start: int
    starting: bool
    state: str
    tenant: str
    has_init: bool
    shape: str
    image: str
    devices: tuple[str, ...] = ()
    ports: frozenset[Port] = frozenset()
    exit_code: int | None = None

    @property
    def ssh_port(self) -> int | None:
        """The node port of the guest's ssh server; known while it runs."""
        return next((port.node_port for port in self.ports if port.port == SSH_PORT), None)

    @property
    def runs(self) -> bool:
        return self.state in {"running", "paused", "restarting"}

    @property
    def is_going(self) -> bool:
        """On its way out by the engine's own doing; nothing can be started from it."""
        return self.state in {"removing", "dead"}


def checked_id(id: InstanceId) -> InstanceId:
    """``id`` if it can safely be part of names and paths. Raises Refused."""
    if _ID.fullmatch(id) is None:
        raise Refused("An instance id is made of lower-case letters, digits and dashes")
    return id


def container_name(deployment: str, id: InstanceId, start: int, *, starting: bool = False) -> str:
    return f"tidemill-{deployment}-{id}-{start}{'.starting' if starting else ''}"


def network_name(deployment: str, tenant: str) -> str:
    return f"tidemill-{deployment}-{tenant}"


def system_image(deployment: str, id: InstanceId) -> str:
    """The repository of images that carry a system disk over to a container of another shape."""
    return f"tidemill-{deployment}/{id}"


def labels(deployment: str, workload: Workload) -> dict[str, str]:
    made = {
        DEPLOYMENT: deployment,
        INSTANCE: workload.id,
        TENANT: workload.tenant,
        SHAPE: shape(workload),
        INIT: "1" if workload.init_script else "0",
        DEVICES: json.dumps([device.id for device in workload.devices]),
    }
    return made


def shape(workload: Workload) -> str:
    """A word for everything about a workload that a container keeps from its creation on."""
    fixed = {
        "devices": [[device.id, *device.paths] for device in workload.devices],
        "ports": sorted([port.port, port.node_port] for port in workload.ports),
        "limits": [workload.cpu, workload.memory_mb, workload.shm_mb, workload.pids],
        "disk": workload.data_disk_gb > 0,
    }
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


def endpoint(workload: Workload) -> dict[str, Any]:
    """How the instance is known in its tenant's network."""
    return {"Aliases": [workload.hostname, workload.id]}


def container_config(
    workload: Workload,
    *,
    deployment: str,
    guest: Guest,
    files: Path,
    data_disk: Path | None,
    publish_address: str,
    stop_grace: float,
    image: str | None = None,
    volumes_from: str | None = None,
) -> dict[str, Any]:
    """The body of ``POST /containers/create``.

    ``files`` is the folder with the instance's own files, ``data_disk`` the folder on its data
    disk, ``image`` stands in for the workload's own when a system disk is carried over.
    ``volumes_from`` is the container whose volumes it then gets: those that the image declares
    are no part of its system disk, and go with the last container that has them.
    """
    network = network_name(deployment, workload.tenant)
    mounts = [
        _bind(guest.folder, guest.mount, read_only=True),
        _bind(files, guest.files_mount, read_only=True),
    ]
    if data_disk is not None:
        mounts.append(_bind(data_disk, DATA_DISK, read_only=False))
    gpus = [device.id for device in workload.devices if not device.paths]
    return {
        "Image": image or workload.image,
        "Hostname": workload.hostname,
        "User": "0",
        "WorkingDir": "/",  # the image's is a path that a tenant can change: nobody goes there
        "Entrypoint": list(guest.command),
        "Cmd": [],
        "Env": _env(workload.env, gpus),
        "Labels": labels(deployment, workload),
        "ExposedPorts": {f"{port.port}/tcp": {} for port in workload.ports},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "StopTimeout": max(0, round(stop_grace)),
        "HostConfig": {
            "NanoCpus": round(workload.cpu * 1e9),
            "Memory": workload.memory_mb * MIB,
            "MemorySwap": workload.memory_mb * MIB,
            "PidsLimit": workload.pids,
            "ShmSize": workload.shm_mb * MIB,
            "Privileged": False,
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": list(DROPPED_CAPABILITIES),
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": LOG_LIMITS},
            "NetworkMode": network,
            "Mounts": mounts,
            "VolumesFrom": [volumes_from] if volumes_from else [],
            "PortBindings": {
                f"{port.port}/tcp": [{"HostIp": publish_address, "HostPort": str(port.node_port)}]
                for port in workload.ports
            },
            "Devices": [
                {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
                for device in workload.devices
                for path in device.paths
            ],
            "DeviceRequests": [
                {"Driver": "nvidia", "DeviceIDs": gpus, "Capabilities": [["gpu", "compute", "utility"]]}
            ]
            if gpus
            else [],
        },
        "NetworkingConfig": {"EndpointsConfig": {network: endpoint(workload)}},
    }


def read_row(row: Mapping[str, Any], deployment: str) -> Found | None:
    """One row of the container listing; None when it is not an instance of ``deployment``."""
    marks: Mapping[str, str] = row.get("Labels") or {}
    id = marks.get(INSTANCE, "")
    if not id or marks.get(DEPLOYMENT) != deployment:
        return None
    stem = f"/tidemill-{deployment}-{id}"
    for name in row.get("Names") or ():
        match = _NAME.fullmatch(name.removeprefix(stem)) if name.startswith(stem) else None
        if match is not None:
            break
    else:
        return None
    ended = _STATUS.match(row.get("Status") or "")
    return Found(
        container=row["Id"],
        id=id,
        start=int(match[1]),
        starting=match[2] is not None,
        state=row["State"],
        tenant=marks.get(TENANT, ""),
        has_init=marks.get(INIT) == "1",
        shape=marks.get(SHAPE, ""),
        image=row.get("Image") or "",
        devices=tuple(json.loads(marks.get(DEVICES) or "[]")),
        ports=_ports(row),
        exit_code=int(ended[1]) if ended is not None else None,
    )


def _ports(row: Mapping[str, Any]) -> frozenset[Port]:
    """Each once, at however many addresses it is published."""
    return frozenset(
        Port(int(port["PrivatePort"]), int(port["PublicPort"]))
        for port in row.get("Ports") or ()
        if port.get("Type") == "tcp" and port.get("PublicPort")
    )


def _bind(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def _env(given: Mapping[str, str], gpus: list[str]) -> list[str]:
    # Where NVIDIA's runtime is the default one, an image or a user could ask for every GPU of
    # the machine by this variable; so it always says what was paid for.
    env = {**given, "NVIDIA_VISIBLE_DEVICES": ",".join(gpus) if gpus else "void"}
    return [f"{name}={value}" for name, value in env.items()]
