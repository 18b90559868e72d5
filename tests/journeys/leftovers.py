"""What a deployment may leave behind on its machine, found without asking the deployment."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Containers, networks and images by name; loop devices; mounts; ports that are listened on."""

    containers: list[str]
    networks: list[str]
    images: list[str]
    loops: list[str]
    mounts: list[str]
    ports: list[int]

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def remove(self) -> None:
        """Remove them by force."""
        _quietly("docker", "rm", "--force", "--volumes", *self.containers)
        for mount in reversed(self.mounts):
            _quietly("umount", mount)
        for loop in self.loops:
            _quietly("losetup", "--detach", loop)
        _quietly("docker", "network", "rm", *self.networks)
        _quietly("docker", "image", "rm", "--force", *self.images)


def left_by(deployment: str, folder: Path, node_ports: set[int]) -> Leftovers:
    """What is left of ``deployment``, whose data folder is ``folder``."""
    label = f"label=tidemill.deployment={deployment}"
    prefix = f"tidemill-{deployment}"
    return Leftovers(
        containers=_lines("docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}"),
        networks=[
            name
            for name in _lines("docker", "network", "ls", "--format", "{{.Name}}")
            if name.startswith(prefix)
        ],
        images=[
            name
            for name in _lines("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
            if name.startswith(prefix)
        ],
        loops=_loops(folder),
        mounts=_mounts(folder),
        ports=sorted(node_ports & listening_ports()),
    )


def _loops(folder: Path) -> list[str]:
    told = subprocess.run(["losetup", "--json", "--list"], capture_output=True, text=True, check=True).stdout
    devices = json.loads(told)["loopdevices"] if told.strip() else []
    inside = f"{folder.resolve()}/"
    return [device["name"] for device in devices if str(device["back-file"]).startswith(inside)]


def _mounts(folder: Path) -> list[str]:
    """Mount points under ``folder``, in the order they were mounted."""
    inside = f"{folder.resolve()}/"
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(inside)]


def listening_ports() -> set[int]:
    """TCP ports that anybody on this machine listens on."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                found.add(int(columns[1].rpartition(":")[2], 16))
    return found


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False, timeout=60)
