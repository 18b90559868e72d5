"""A deployment of our own on the real engine: drivers over it, workloads for it, and its end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidemill.drivers.contract import Driver, Port, Workload
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.guest.build import build
from tidemill.guest.installed import InstalledGuest
from tidemill.model.observation import Phase, Seen

SOCKET = "unix:///var/run/docker.sock"
SECONDS = 60  # the most that anything is waited for
BUSYBOX = "/.tidemill/bin/busybox"


def docker(*arguments: str, input: bytes | None = None, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], input=input, capture_output=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode().strip()


def free_port() -> int:
    """A port below the range that the kernel gives to outgoing connections."""
    for _ in range(1000):
        port = 20000 + int.from_bytes(os.urandom(2)) % 10000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def imported_image(files: dict[str, bytes]) -> str:
    """Make an image of ``files``, without any registry; its name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))
    name = f"tidemill-test-driver/{uuid.uuid4().hex[:12]}:1"
    docker("import", "-", name, input=archive.getvalue())
    return name


class World:
    """What one test makes; :meth:`clean_up` removes it whatever became of the test."""

    def __init__(self, guest: InstalledGuest, image: str, folder: Path) -> None:
        self.guest = guest
        self.image = image
        self.data_dir = folder / "data"
        self.data_dir.mkdir(mode=0o700)
        self.deployment = f"test-{uuid.uuid4().hex[:8]}"
        self.pool = f"10.{220 + os.getpid() % 30}.0.0/16"
        self.drivers: list[DockerDriver] = []

    def driver(self, **changes: object) -> DockerDriver:
        """Another driver over the same deployment, as after a restart of the server."""
        arguments: dict[str, object] = {
            "url": SOCKET,
            "deployment": self.deployment,
            "guest": self.guest,
            "data_dir": self.data_dir,
            "publish_address": "127.0.0.1",
            "network_pool": self.pool,
            "registries": {},
            "stop_grace": 3,
        }
        driver = DockerDriver(**(arguments | changes))  # type: ignore[arg-type]
        self.drivers.append(driver)
        return driver

    def workload(self, **changes: object) -> Workload:
        id = f"notebook-{uuid.uuid4()}"
        values: dict[str, object] = {
            "id": id,
            "start": 1,
            "tenant": "alice",
            "hostname": f"box-{id[-6:]}",
            "image": self.image,
            "cpu": 0.5,
            "memory_mb": 128,
            "shm_mb": 16,
            "pids": 64,
            "ports": (Port(22, free_port()),),
            "authorized_keys": (),
            "host_key": bytes(range(32)),
        }
        return Workload(**(values | changes))  # type: ignore[arg-type]

    async def up(self, driver: Driver, workload: Workload) -> Workload:
        await driver.ensure_running(workload)
        await until(driver, workload.id, is_reachable(workload.start), ask=workload)
        return workload

    def container(self, workload: Workload, start: int | None = None) -> str:
        return f"tidemill-{self.deployment}-{workload.id}-{start or workload.start}"

    def run_in(self, workload: Workload, *command: str, start: int | None = None) -> tuple[int, str]:
        """Run an applet of the guest's busybox inside; exit code, and both outputs."""
        done = subprocess.run(
            ["docker", "exec", self.container(workload, start), BUSYBOX, *command],
            capture_output=True,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")

    def inspect(self, workload: Workload) -> dict[str, object]:
        return json.loads(docker("inspect", self.container(workload)))[0]

    def containers(self) -> list[str]:
        label = f"label=tidemill.deployment={self.deployment}"
        return docker("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()

    def networks(self) -> list[str]:
        label = f"label=tidemill.deployment={self.deployment}"
        return docker("network", "ls", "--quiet", "--filter", label).split()

    def rules(self) -> list[str]:
        """Of the firewall."""
        said = subprocess.run(["iptables-save", "-t", "mangle"], capture_output=True, text=True, check=True)
        return [line for line in said.stdout.splitlines() if self.deployment in line]

    def images(self) -> list[str]:
        return docker(
            "images",
            "--filter",
            f"reference=tidemill-{self.deployment}/*",
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ).split()

    def mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [place for line in lines if (place := line.split()[4]).startswith(str(self.data_dir))]

    def loop_devices(self) -> list[str]:
        backing = (path / "loop/backing_file" for path in Path("/sys/block").glob("loop*"))
        return [
            file for path in backing if path.exists() and str(self.data_dir) in (file := path.read_text())
        ]

    def left_over(self) -> dict[str, object]:
        """Everything of this deployment that the machine still has, a moment after: see :meth:`_let_go`."""
        self._let_go()
        files = [str(path) for path in self.data_dir.rglob("*") if path.parent != self.data_dir]
        found: dict[str, list[str]] = {
            "containers": self.containers(),
            "networks": self.networks(),
            "rules": self.rules(),
            "images": self.images(),
            "mounts": self.mounts(),
            "loop devices": self.loop_devices(),
            "files": files,
        }
        return {kind: things for kind, things in found.items() if things}

    def _let_go(self) -> None:
        """The kernel lets a loop device go by itself, some time after its last mount went."""
        deadline = time.monotonic() + SECONDS
        while not self.mounts() and self.loop_devices() and time.monotonic() < deadline:
            time.sleep(0.1)

    async def clean_up(self) -> None:
        for driver in self.drivers:
            await driver.close()
        for kind, remove in (
            ("containers", ("rm", "-fv")),
            ("networks", ("network", "rm")),
            ("images", ("rmi", "-f")),
        ):
            for thing in getattr(self, kind)():
                docker(*remove, thing, check=False)
        for rule in self.rules():
            subprocess.run(["iptables", "-w", "-t", "mangle", "-D", *shlex.split(rule)[1:]], check=False)
        for mount in self.mounts():
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def is_reachable(start: int) -> Callable[[Seen | None], bool]:
    return lambda seen: seen is not None and (seen.start, seen.phase) == (start, Phase.REACHABLE)


def is_phase(phase: Phase) -> Callable[[Seen | None], bool]:
    return lambda seen: seen is not None and seen.phase is phase


async def until(
    driver: Driver,
    id: str,
    holds: Callable[[Seen | None], bool],
    *,
    ask: Workload | None = None,
    seen_on_the_way: list[Seen | None] | None = None,
) -> Seen | None:
    """Look as the loop does, asking again for ``ask``, until ``holds``; what was seen then."""
    seen = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                seen = (await driver.observe()).get(id)
                if seen_on_the_way is not None and (not seen_on_the_way or seen_on_the_way[-1] != seen):
                    seen_on_the_way.append(seen)
                if holds(seen):
                    return seen
                if ask is not None:
                    await driver.ensure_running(ask)
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still {seen} after {SECONDS} s") from None


@pytest.fixture(scope="session")
def guest(guest_folder: Path) -> InstalledGuest:
    return InstalledGuest(build(guest_folder))


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """An image that holds one text file: all that runs in it is the guest."""
    name = imported_image({"readme": b"there is no program in this image\n"})
    yield name
    docker("rmi", "-f", name)
