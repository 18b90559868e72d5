"""What one simulated machine has, and who holds what of it; no more is given out than there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidemill.drivers.contract import Node, Workload
from tidemill.model.observation import InstanceId

What = Literal["cpu", "memory", "disk", "device", "port"]


@dataclass(frozen=True, slots=True)
class Clash:
    """Why a workload cannot run on a node. ``holder`` has the very thing, where it is one thing."""

    what: What
    message: str
    holder: InstanceId | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """Somebody was told to use what another one was using, or more than there is; the engine did not.

    Not recorded are clashes with what came without being asked for (a repeated request, something
    that came back), because nobody could have known of it.
    """

    at: float
    node: str
    id: InstanceId
    clash: Clash


class Space:
    """One node. A running workload holds cores, memory, devices and ports; a disk is held till the end."""

    def __init__(self, node: Node, cpu_overcommit: float) -> None:
        self.node = node
        self.lost = False
        self.running: dict[InstanceId, Workload] = {}
        self._cpu_milli = int(node.cpu * 1000 * cpu_overcommit)
        self._known = {device.id for device in node.devices}
        self._devices: dict[str, InstanceId] = {}
        self._ports: dict[int, InstanceId] = {}
        self._disks: dict[InstanceId, int] = {}
        self._cpu_used = self._memory_used = self._disk_used = 0

    def clash(self, workload: Workload) -> Clash | None:
        """What keeps ``workload`` from running here; what its own earlier start holds is no matter."""
        name, own = self.node.name, self.running.get(workload.id)
        cpu = self._cpu_used - (_milli(own) if own else 0) + _milli(workload)
        memory = self._memory_used - (own.memory_mb if own else 0) + workload.memory_mb
        disk = self._disk_used - self._disks.get(workload.id, 0) + workload.data_disk_gb
        if cpu > self._cpu_milli:
            return Clash("cpu", f"{name} has not {workload.cpu:g} cores left")
        if memory > self.node.memory_mb:
            return Clash("memory", f"{name} has not {workload.memory_mb} MiB of memory left")
        if disk > self.node.disk_gb:
            return Clash("disk", f"{name} has not {workload.data_disk_gb} GB of disk left")
        for device in workload.devices:
            holder = self._devices.get(device.id, workload.id)
            if holder != workload.id:
                return Clash("device", f"the device {device.id} of {name} is in use", holder)
        taken = self.taken_port(workload)
        if taken is not None:
            return Clash("port", f"port {taken} of {name} is in use", self._ports[taken])
        return None

    def taken_port(self, workload: Workload) -> int | None:
        """A node port of ``workload`` that another holds."""
        ports = (port.node_port for port in workload.ports)
        return next((port for port in ports if self._ports.get(port, workload.id) != workload.id), None)

    def unknown_device(self, workload: Workload) -> str | None:
        """A device of ``workload`` that this node does not have."""
        return next((device.id for device in workload.devices if device.id not in self._known), None)

    def take(self, workload: Workload) -> None:
        """Hold what ``workload`` needs; the caller has looked for a clash."""
        self.let_go(workload.id)
        self.running[workload.id] = workload
        self._cpu_used += _milli(workload)
        self._memory_used += workload.memory_mb
        self._devices |= {device.id: workload.id for device in workload.devices}
        self._ports |= {port.node_port: workload.id for port in workload.ports}
        self.keep_disk(workload)

    def keep_disk(self, workload: Workload) -> None:
        """Hold the data disk alone, as what is stopped does."""
        self._disk_used += workload.data_disk_gb - self._disks.get(workload.id, 0)
        self._disks[workload.id] = workload.data_disk_gb

    def let_go(self, id: InstanceId) -> None:
        """It runs no more; its disk stays."""
        workload = self.running.pop(id, None)
        if workload is None:
            return
        self._cpu_used -= _milli(workload)
        self._memory_used -= workload.memory_mb
        for device in workload.devices:
            self._devices.pop(device.id, None)
        for port in workload.ports:
            self._ports.pop(port.node_port, None)

    def forget(self, id: InstanceId) -> None:
        """It is gone, with its disk."""
        self.let_go(id)
        self._disk_used -= self._disks.pop(id, 0)


def _milli(workload: Workload) -> int:
    return round(workload.cpu * 1000)
