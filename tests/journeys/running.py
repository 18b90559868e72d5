"""A deployment of its own: data folder, settings, server process, accounts, and what it may leave behind.

Everything goes the way an operator goes: ``tidemill serve`` as a process, the API over HTTP. Only the
folder is made and a second user written into the store by what the commands call.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection
from tests.cheap_passwords import CHEAP, cost
from tests.journeys.leftovers import Leftovers, left_by, listening_ports
from tests.journeys.waiting import until
from tests.stock import MONEY, pay_in

from tidemill.actions.passwords import hash_password
from tidemill.clock import SystemClock
from tidemill.deployment import DATABASE, initialise
from tidemill.settings import load
from tidemill.store import accounts
from tidemill.store.database import Database
from tidemill.store.migrate import migrate

QUICK = {  # settings for tests: the same paths as an operator's, in less time
    "beat": 0.5,
    "full_pass": 4,
    "stop_grace": 4,
    "orphan_grace": 4,
    "restart_pause": 0.5,
    "memory_reserve_mb": 64,
    "cpu_overcommit": 16,
}
SMALL = {"name": "small", "cpu": 0.5, "memoryGB": 0.25, "perHour": 1.5, "tidePerHour": 0.9, "perWeek": 100}

LAUNCH: dict[str, Any] = {
    "name": "journey",
    "billing": {"chargeMode": "perHour", "duration": 1},
    "remoteStorages": [],
    "instanceConfiguration": {
        "extraDataDiskSizeDB": 0,
        "enableCommonData": False,
        "enableDocker": False,
        "dockerStorageSize": 0,
        "initScript": "",
    },
    "isSpotInstance": False,
    "nodePorts": [],
}


STARTS_WITHIN = 120.0  # seconds; a second on a machine of its own


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def free_ports(count: int) -> tuple[int, int]:
    """A range of ``count`` ports that nobody listens on, below those that the kernel gives out."""
    listening = listening_ports()
    while True:
        low = 20_000 + secrets.randbelow(9_000 // count) * count
        if not listening & set(range(low, low + count)):
            return low, low + count - 1


def toml(settings: Mapping[str, Any], tables: Mapping[str, list[Mapping[str, Any]]]) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    for table, rows in tables.items():
        for row in rows:
            lines += ["", f"[[{table}]]", *(f"{name} = {json.dumps(value)}" for name, value in row.items())]
    return "\n".join(lines) + "\n"


@dataclass
class Tenant:
    """A user who is logged in, and the API as they call it."""

    server: Server
    username: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)

    def log_in(self) -> Tenant:
        answer = self.server.http.post(
            "/api/user/login", json={"username": self.username, "password": self.password}
        )
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["accessToken"]
        return self

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        if method == "POST":
            options["json"] = {} if body is None else body
        return self.server.http.request(method, path, headers=headers, **options)

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        """What a call that must succeed answers."""
        answer = self.ask("POST", path, body)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def offer(self, *, type: str = "small", image: str = "Debian 12") -> dict[str, str]:
        """The ids that a launch needs, looked up in the catalogue by name."""
        found: dict[str, str] = {}
        for family in self.post("/api/resource/user/instance/list")["instanceInfos"]:
            for region in family["regionInfos"]:
                for each in region["instanceTypeInfos"]:
                    if each["instanceTypeName"] == type and not family["isSpotInstance"]:
                        found |= {"instanceTypeId": each["instanceTypeId"], "region": region["regionId"]}
        for each in self.post("/api/resource/image/list")["images"]:
            if each["imageName"] == image:
                found["imageId"] = each["imageId"]
        assert len(found) == 3, found
        return found

    def request(
        self, *, type: str = "small", image: str = "Debian 12", disk: int = 0, init: str = "", **fields: Any
    ) -> dict[str, Any]:
        """A launch request."""
        body = json.loads(json.dumps(LAUNCH)) | self.offer(type=type, image=image) | fields
        body["instanceConfiguration"] |= {"extraDataDiskSizeDB": disk, "initScript": init}
        return body

    def launch(self, **fields: Any) -> str:
        return self.post("/api/instance/create", self.request(**fields))["instanceId"]

    def get(self, id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/api/instance/{id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def runtime(self, id: str) -> dict[str, Any]:
        return self.get(id)["instanceRuntimeInfo"]

    def status(self, id: str) -> str:
        return self.runtime(id)["status"]

    def events(self, id: str) -> list[dict[str, Any]]:
        answer = self.ask("GET", f"/api/instance/{id}/events")
        assert answer.status_code == 200, answer.text
        return answer.json()["events"]

    def logs(self, id: str) -> str:
        answer = self.ask("GET", f"/api/instance/{id}/logs")
        assert answer.status_code == 200, answer.text
        return answer.text

    def do(self, verb: str, id: str) -> None:
        assert self.post(f"/api/instance/{verb}", {"instanceId": id}) == {"instanceId": id}

    def wait(self, id: str, status: str, seconds: float = 45.0) -> dict[str, Any]:
        """The instance's row once it has ``status``; fails at once when it ends in a failure instead."""

        def look() -> dict[str, Any] | None:
            row = self.get(id)
            now = row["instanceRuntimeInfo"]["status"]
            assert now == status or not now.endswith("Failed"), (row["instanceRuntimeInfo"], self.events(id))
            return row if now == status else None

        try:
            return until(f"{id} is {status}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.get(id)}; {self.events(id)}") from None

    def node_port(self, id: str, port: int = 22) -> int:
        ports = self.get(id)["instanceSpecInfo"]["nodePorts"]
        return next(each["nodePort"] for each in ports if each["port"] == port)

    def add_key(self, public_line: str, name: str = "key") -> str:
        body = {"name": name, "publicKey": public_line}
        return self.post("/api/user/sshkey/create", body)["sshKey"]["id"]

    def container(self, id: str) -> str:
        """The engine's name of the container that is this instance now."""
        names = docker("ps", "--all", "--filter", f"label=tidemill.instance={id}", "--format", "{{.Names}}")
        (name,) = names.split()
        return name


@cache
def _migrated() -> bytes:
    """A SQLite database at the newest schema."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / DATABASE
        made = Database(f"sqlite:///{file}")
        migrate(made)
        made.close()
        return file.read_bytes()


@dataclass
class Server:
    """One deployment in ``folder``; ``start`` and ``stop`` its process as often as needed."""

    folder: Path
    guest: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    ports: tuple[int, int] = field(default_factory=lambda: free_ports(100))
    deployment: str = field(default_factory=lambda: f"journey-{secrets.token_hex(4)}")
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.guest is not None:
            (self.folder / "guest").symlink_to(self.guest)
        self.settings = {
            "deployment": self.deployment,
            "publish_address": "127.0.0.1",
            "node_ports": f"{self.ports[0]}-{self.ports[1]}",
            "tenant_networks": f"10.{200 + secrets.randbelow(50)}.0.0/16",
            **QUICK,
            **self.settings,
        }
        self.configure()
        self._initialise()

    def _initialise(self) -> None:
        """What `tidemill init` does, in a small part of the time."""
        own = load(self.folder / "tidemill.toml", {"data_dir": self.folder}, {})
        if not (own.settings.database_url or (self.folder / DATABASE).exists()):
            (self.folder / DATABASE).write_bytes(_migrated())
            (self.folder / DATABASE).chmod(0o600)
        with cost(CHEAP):
            initialise(own, SystemClock())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def configure(self, **settings: Any) -> None:
        """Write tidemill.toml, with these settings from now on."""
        self.settings |= settings
        tables = {"type": [SMALL]} | self.tables
        (self.folder / "tidemill.toml").write_text(toml(self.settings, tables))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tidemill", *words, "--data-dir", str(self.folder)]

    def tidemill(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=60, check=False, env=environment()
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def spawn(self) -> subprocess.Popen[bytes]:
        """A server process, not waited for."""
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                self.command("serve", "--host", self.host, "--port", str(self.port)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

    def start(self, seconds: float = STARTS_WITHIN) -> Server:
        self.process = self.spawn()
        until("the server answers", self._answers, seconds)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended: {self.log[-4000:]}"
        try:
            return self.http.get("/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 20.0) -> int | None:
        """End the process and return its exit code; nothing happens when none runs."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(how)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not end within {seconds:g} s of {how.name}") from None

    def ready(self) -> httpx.Response:
        return self.http.get("/readyz")

    def first_login(self, username: str = "user") -> Tenant:
        """One of the accounts that ``tidemill init`` made, logged in."""
        logins = json.loads((self.folder / "first-login.json").read_text())
        login = next(each for each in logins if each["username"] == username)
        with self.database() as database:
            give_money(database, username)
        return Tenant(self, login["username"], login["password"]).log_in()

    @contextmanager
    def database(self) -> Generator[Database]:
        """Its database, opened beside it."""
        opened = Database(self.settings.get("database_url") or f"sqlite:///{self.folder / 'tidemill.db'}")
        try:
            yield opened
        finally:
            opened.close()

    def add_tenant(self, username: str) -> Tenant:
        """One more user, logged in."""
        password = secrets.token_urlsafe(12)
        with self.database() as database:
            database.run(
                lambda connection: accounts.create_user(
                    connection,
                    username=username,
                    password_hash=hash_password(password),
                    is_admin=False,
                    now=datetime.now(UTC),  # noqa: TID251 - the real server's clock is the real one
                )
            )
            give_money(database, username)
        return Tenant(self, username, password).log_in()

    def terminate_all(self, *tenants: Tenant, seconds: float = 60.0) -> None:
        """Let every tenant end all that they have, and see it gone."""
        for tenant in tenants:
            rows = tenant.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 200}})
            ids = [row["instanceMetadata"]["instanceId"] for row in rows["instances"]]
            for id in ids:
                tenant.do("terminate", id)
        for tenant in tenants:
            until(
                f"all of {tenant.username}'s instances are gone",
                lambda tenant=tenant: (
                    tenant.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 1}})["pager"][
                        "totalEntries"
                    ]
                    == 0
                ),
                seconds,
            )

    def leftovers(self) -> Leftovers:
        return left_by(self.deployment, self.folder, set(range(self.ports[0], self.ports[1] + 1)))

    def close(self) -> None:
        """Stop it and clean up by force what is left, so that no test harms the next."""
        try:
            self.stop()
        finally:
            self.http.close()
            self.leftovers().remove()


def environment() -> dict[str, str]:
    """This process's environment without settings that somebody may have put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}


def docker(*arguments: str, input: bytes | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=input, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def give_money(database: Database, username: str) -> None:
    """Let somebody have as much as anybody needs, once."""

    def work(connection: Connection) -> None:
        user = accounts.by_username(connection, username)
        assert user is not None
        pay_in(connection, user.id, MONEY, datetime.now(UTC))  # noqa: TID251 - as above

    database.run(work)


def running_container(id: str) -> str:
    """The engine's id of the container that runs for an instance; "" while none does."""
    return docker("ps", "--no-trunc", "--quiet", "--filter", f"label=tidemill.instance={id}")


def described(id: str, template: str) -> str:
    """What the engine says of an instance's running container; "" while there is none.

    The container may go between the list and the look: then there is none, too.
    """
    container = running_container(id)
    if not container:
        return ""
    try:
        return docker("inspect", "--type", "container", "--format", template, container)
    except AssertionError as error:
        if "No such container" in str(error):
            return ""
        raise


def secret_free(text: str, secrets_: Mapping[str, str]) -> None:
    """Fail, naming the secret but not showing it, when ``text`` holds one."""
    for name, value in secrets_.items():
        assert value, name
        assert not re.search(re.escape(value), text), f"{name} is shown"
