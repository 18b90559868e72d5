"""From POST to a finished `ssh ... true`, against a bare engine's create + start + the same ssh.

    uv run python benchmarks/launch.py [--rounds 15] [--many 20] [--many-rounds 3]

Both sides run in one round, in turn, on the same engine with the same image, guest, limits, network kind
and published port; the bare side sends the very container configuration that the driver makes. Ours is a
whole `tidemill serve` on SQLite: HTTP, transaction, loop, driver. The ssh client is OpenSSH's; it is started
once the port shows a banner, on both sides by the same function. Needs root and a container engine that has
the base image (`tidemill base-image`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tidemill.drivers.contract import Port, Workload
from tidemill.drivers.docker.spec import container_config, network_name
from tidemill.guest.build import build
from tidemill.guest.installed import InstalledGuest

IMAGE = "tidemill/debian:12"
SOCKET = "/var/run/docker.sock"
PORT = 8441
CPU, MEMORY_MB, PIDS = 0.5, 256, 512
CATALOGUE = (
    f'[[type]]\nname = "bench"\ncpu = {CPU}\nmemoryGB = {MEMORY_MB / 1024}\npids = {PIDS}\nshmGB = 0.0625\n'
)
TENANT = "benchmark"
DEADLINE = 120.0


@dataclass
class Key:
    """The client's ssh key."""

    private: Path
    public: str


def wait_and_ssh(key: Key, port: int) -> None:
    """Wait for a banner on the port, then run `true` by OpenSSH, again if it was turned away."""
    deadline = time.monotonic() + DEADLINE
    patience = 0.1  # the engine's proxy may accept before the instance has its address
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.settimeout(patience)
                if probe.recv(4) == b"SSH-":
                    break
        except TimeoutError:
            patience = min(2.0, patience * 2)
        except OSError:
            pass
        time.sleep(0.005)
    command = [
        "ssh",
        "-F",
        "/dev/null",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    command += ["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-i", str(key.private), "-p", str(port)]
    while subprocess.run(
        [*command, "root@127.0.0.1", "true"], stdin=subprocess.DEVNULL, check=False
    ).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"no ssh at port {port}")


class Bare:
    """The engine by itself."""

    def __init__(self, folder: Path, guest: InstalledGuest, key: Key) -> None:
        self._folder, self._guest, self._key = folder, guest, key
        self._engine = httpx.Client(
            transport=httpx.HTTPTransport(uds=SOCKET), base_url="http://engine", timeout=DEADLINE
        )
        self._made: list[str] = []
        self._port = 24000
        self._call("POST", "/networks/create", {"Name": network_name("bare", TENANT), "Driver": "bridge"})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._engine.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def prepare(self) -> Callable[[], None]:
        """Everything but the engine's own work and the ssh, outside the measured time."""
        self._port += 1
        port, id = self._port, f"notebook-{secrets.token_hex(8)}"
        files = self._folder / id
        files.mkdir()
        contents = self._guest.files(
            authorized_keys=[self._key.public], host_key=secrets.token_bytes(32), init_script=""
        )
        for name, content in contents.items():
            (files / name).write_bytes(content)
            (files / name).chmod(0o600)
        workload = Workload(
            id=id,
            start=1,
            tenant=TENANT,
            hostname="bench",
            image=IMAGE,
            cpu=CPU,
            memory_mb=MEMORY_MB,
            shm_mb=64,
            pids=PIDS,
            ports=(Port(22, port),),
            authorized_keys=(self._key.public,),
            host_key=b"",
        )
        config = container_config(
            workload,
            deployment="bare",
            guest=self._guest,
            files=files,
            data_disk=None,
            publish_address="127.0.0.1",
            stop_grace=1,
        )

        def run() -> None:
            made = self._call("POST", f"/containers/create?name=bare-{id}", config)["Id"]
            self._made.append(made)
            self._call("POST", f"/containers/{made}/start")
            wait_and_ssh(self._key, port)

        return run

    def clean(self) -> None:
        for made in self._made:
            self._call("DELETE", f"/containers/{made}?force=1&v=1")
        self._made.clear()

    def close(self) -> None:
        self.clean()
        self._call("DELETE", f"/networks/{network_name('bare', TENANT)}")


class Ours:
    """A whole server."""

    def __init__(self, folder: Path, key: Key) -> None:
        self._key = key
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=DEADLINE)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._api.get("/readyz").raise_for_status()
                break
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    sys.exit((folder / "server.log").read_text())
                time.sleep(0.05)
        login = next(e for e in json.loads((folder / "first-login.json").read_text()) if not e["is_admin"])
        token = self._post("/api/user/login", username=login["username"], password=login["password"])
        self._api.headers["Authorization"] = f"Bearer {token['accessToken']}"
        self._post("/api/user/sshkey/create", name="benchmark", publicKey=key.public)
        region = self._post("/api/resource/user/instance/list")["instanceInfos"][0]["regionInfos"][0]
        self._body = {
            "name": "bench",
            "imageId": self._post("/api/resource/image/list")["images"][0]["imageId"],
            "instanceTypeId": region["instanceTypeInfos"][0]["instanceTypeId"],
            "region": region["regionId"],
            "billing": {"chargeMode": "perHour", "duration": 1},
            "remoteStorages": [],
            "instanceConfiguration": {"enableCommonData": False, "enableDocker": False, "initScript": ""},
            "nodePorts": [],
        }
        self._made: list[str] = []
        # The tenant's network stands while it has a member, as the bare side's does.
        self.prepare()()
        self._kept = self._made.pop()

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._api.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def prepare(self) -> Callable[[], None]:
        def run() -> None:
            id = self._post("/api/instance/create", **self._body)["instanceId"]
            self._made.append(id)
            row = self._api.get(f"/api/instance/{id}").json()
            wait_and_ssh(self._key, row["instanceSpecInfo"]["nodePorts"][0]["nodePort"])

        return run

    def close(self) -> None:
        self._made.append(self._kept)
        self.clean()

    def clean(self) -> None:
        for id in self._made:
            self._post("/api/instance/terminate", instanceId=id)
        deadline = time.monotonic() + DEADLINE
        for id in self._made:
            while self._api.get(f"/api/instance/{id}").json()["instanceRuntimeInfo"]["status"] != "Released":
                if time.monotonic() > deadline:
                    sys.exit(f"{id} was not released")
                time.sleep(0.05)
        self._made.clear()


@contextlib.contextmanager
def server(folder: Path) -> Iterator[None]:
    (folder / "tidemill.toml").write_text(CATALOGUE)
    environment = os.environ | {
        "TIDEMILL_DATA_DIR": str(folder),
        "TIDEMILL_HOST": "127.0.0.1",
        "TIDEMILL_PORT": str(PORT),
        "TIDEMILL_PUBLISH_ADDRESS": "127.0.0.1",
        "TIDEMILL_CPU_OVERCOMMIT": "100",
        "TIDEMILL_STOP_GRACE": "1",
    }
    tidemill = [sys.executable, "-m", "tidemill"]
    subprocess.run([*tidemill, "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*tidemill, "serve"], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def seconds(runs: list[Callable[[], None]]) -> float:
    """Wall time until all of them, begun at once, are through."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(runs)) as pool:
        for done in [pool.submit(run) for run in runs]:
            done.result()
    return time.perf_counter() - began


def measure(bare: Bare, ours: Ours, *, many: int, rounds: int) -> dict[str, Any]:
    """Rounds of ``many`` launches at once on each side in turn; the first round warms up."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair: list[float] = []
        for side in (bare, ours) if number % 2 else (ours, bare):
            runs = [side.prepare() for _ in range(many)]
            pair.append(seconds(runs))
            side.clean()
        times.append((pair[0], pair[1]) if number % 2 else (pair[1], pair[0]))
    times = times[1:]
    return {
        "at_once": many,
        "rounds": rounds,
        "bare_median_s": round(statistics.median(a for a, _ in times), 3),
        "ours_median_s": round(statistics.median(b for _, b in times), 3),
        "ratios": [round(b / a, 3) for a, b in times],
        "ratio_of_medians": round(
            statistics.median(b for _, b in times) / statistics.median(a for a, _ in times), 3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--many-rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = Key(folder / "id_ed25519", "")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key.private)], check=True)
        key.public = key.private.with_suffix(".pub").read_text().strip()
        (folder / "bare").mkdir()
        (folder / "data").mkdir()
        guest = InstalledGuest(build(folder / "data" / "guest"))
        with server(folder / "data"):
            ours = Ours(folder / "data", key)
            bare = Bare(folder / "bare", guest, key)
            try:
                result = {
                    "what": "seconds from request to a finished `ssh ... true`: tidemill / bare engine",
                    "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
                    f"Python {platform.python_version()}",
                    "one": measure(bare, ours, many=1, rounds=asked.rounds),
                    "many": measure(bare, ours, many=asked.many, rounds=asked.many_rounds),
                }
            finally:
                bare.close()
                ours.close()
    text = json.dumps(result, indent=2)
    print(text)
    (Path(__file__).parent / "results" / "launch.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
