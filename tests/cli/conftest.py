"""A real server with simulated nodes, and the command as a process that talks to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.journeys.running import Server, Tenant

# A run in the background of a shell ignores Ctrl-C, and so would every process that it makes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

COMMAND = (str(Path(sys.executable).with_name("tidemill")),)


@dataclass
class Machine:
    """Somebody's machine: an own home folder, and nothing of ours in the environment."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict[str, str])

    def tidemill(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self.given,
        )

    @property
    def given(self) -> dict[str, str]:
        """The environment of its programs."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        inherited.pop("SSH_AUTH_SOCK", None)
        given = {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "NO_COLOR": ""}
        return inherited | given | self.environ

    def started(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on until somebody ends it."""
        return subprocess.Popen([*COMMAND, *words], stdin=subprocess.DEVNULL, env=self.given)

    def answer(self, *words: str, stdin: str = "") -> str:
        """What a command that must succeed prints."""
        done = self.tidemill(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine is simulated: instances run within a moment, and no container is made."""
    quick = {f"simulated_{what}_seconds": 0.05 for what in ("pull", "start", "stop")}
    server = Server(tmp_path_factory.mktemp("cli") / "data", settings={"driver": "simulated", **quick})
    try:
        yield server.start()
    finally:
        server.stop()
        server.http.close()


@pytest.fixture(scope="session")
def tenant(simulated: Server) -> Tenant:
    """Somebody with money and two instances: ``first`` and ``second``."""
    tenant = simulated.first_login()
    image = tenant.post("/api/resource/image/list")["images"][0]["imageName"]
    for name in ("first", "second"):
        tenant.wait(tenant.launch(name=name, image=image), "Running")
    return tenant
