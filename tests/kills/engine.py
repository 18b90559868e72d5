"""A container engine of a test's own, to be killed and started as often as the test likes.

It lives in a network of its own (a network namespace with one cable out), because two engines in one
network undo each other's packet filters. Its own are its storage, its container runtime and its sockets;
nothing of the machine's engine is touched.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.journeys.waiting import until

IMAGE = "tidemill-test-kills/image:1"
STARTS_WITHIN = 120.0


class OwnEngine:
    """One ``dockerd`` under ``folder``; :meth:`start` and :meth:`kill` it, :meth:`close` removes all of it.

    What it publishes is reached at ``address`` of this machine. Its sockets' paths have to be short, so
    the folder is made by itself.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tm-engine-"))
        self.mark = f"tm{secrets.token_hex(4)}"  # of the network and the cable: 15 characters at most
        subnet = secrets.randbelow(2**14) * 4
        here, self.address = (f"10.199.{subnet >> 8}.{(subnet & 255) + host}" for host in (1, 2))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            run("ip", "netns", "add", self.mark)
            run("ip", "link", "add", self.mark, "type", "veth", "peer", "name", "eth0", "netns", self.mark)
            run("ip", "addr", "add", f"{here}/30", "dev", self.mark)
            run("ip", "link", "set", self.mark, "up")
            for words in (("addr", "add", f"{self.address}/30", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                run("ip", "-netns", self.mark, *words)
        except BaseException:
            self.close()
            raise

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def spawn(self, *, live_restore: bool = False) -> None:
        """Begin to start it; with ``live_restore`` it takes on what runs, without it ends that."""
        config = self.folder / "daemon.json"
        config.write_text(json.dumps({"live-restore": live_restore}))
        # A pid may be anybody's by now, and then it would wait for a stranger.
        for file in (self.folder / "pid", *self.folder.glob("exec/containerd/*.pid")):
            file.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.inside("dockerd"), "--config-file", config, "--host", self.url,
                    "--data-root", self.folder / "root", "--exec-root", self.folder / "exec",
                    "--pidfile", self.folder / "pid", "--bip", "172.31.255.1/24",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def start(self, *, live_restore: bool = False) -> OwnEngine:
        self.spawn(live_restore=live_restore)
        return self.wait()

    def wait(self) -> OwnEngine:
        until("the engine answers", self._answers, STARTS_WITHIN)
        return self

    def kill(self) -> None:
        """SIGKILL, and nothing before; its runtime goes with it, what runs in it goes on."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def docker(self, *arguments: str, input: bytes | None = None) -> str:
        """What the command-line client of this engine says. Raises AssertionError with its no."""
        code, said = self.try_docker(*arguments, input=input)
        assert code == 0, (arguments, said)
        return said

    def try_docker(self, *arguments: str, input: bytes | None = None) -> tuple[int, str]:
        """Exit code and output of the client, which fails while the engine is away."""
        done = subprocess.run(
            ["docker", "--host", self.url, *arguments], input=input, capture_output=True, check=False
        )
        return done.returncode, (done.stdout or done.stderr).decode().strip()

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """A listing of the client (``ps``, ``network ls``, ...), a dictionary a row."""
        said = self.docker(*arguments, "--format", "{{json .}}")
        return [json.loads(line) for line in said.splitlines()]

    def inside(self, *command: str) -> list[str]:
        """``command`` as it has to be called to be in this engine's network."""
        return ["nsenter", f"--net=/run/netns/{self.mark}", *command]

    def watched(self) -> set[str]:
        """Containers, by the engine's ids, that really have a process.

        One that an engine was killed in the middle of starting may have a watcher for ever, of nothing.
        """
        found: set[str] = set()
        for process in Path("/proc").glob("[0-9]*"):
            if self._is_ours(process):
                with contextlib.suppress(OSError):
                    words = (process / "cmdline").read_text().split("\0")
                    threads = (process / "task").iterdir()
                    if "-id" in words and any((thread / "children").read_text() for thread in threads):
                        found.add(words[words.index("-id") + 1])
        return found

    def listening(self) -> set[int]:
        """TCP ports that are listened on in its network."""
        said = run(*self.inside("cat", "/proc/net/tcp", "/proc/net/tcp6"))
        columns = [line.split() for line in said.splitlines()]
        return {int(each[1].rpartition(":")[2], 16) for each in columns if each[3] == "0A"}

    def described(self) -> str:
        """What it has and who listens in its network, for whoever has to find out."""
        asked = (["ps", "--all", "--no-trunc"], ["network", "ls"], ["images", "--all"], ["volume", "ls"])
        return "\n".join(
            [
                *(self.try_docker(*words)[1] for words in asked),
                run(*self.inside("ss", "-ltnp")),
                run(*self.inside("iptables-save")),
                run("ps", "-e", "-o", "pid,ppid,lstart,args", "--forest", "-ww"),
            ]
        )

    def import_image(self, name: str = IMAGE) -> None:
        """An image that holds one text file: whatever runs in an instance is the guest."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            content = b"there is no program in this image\n"
            entry = tarfile.TarInfo("readme")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        self.docker("import", "-", name, input=archive.getvalue())

    def empty(self) -> None:
        """Remove by force all that it has, so that the next test finds nothing."""
        for listing, remove in (
            (("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
            (("network", "ls", "--quiet", "--filter", "type=custom"), ("network", "rm")),
            (("image", "ls", "--all", "--quiet"), ("image", "rm", "--force")),
        ):
            found = set(self.try_docker(*listing)[1].split())
            if found:
                self.try_docker(*remove, *found)

    def close(self) -> None:
        """End it and all that it started, and undo what it made on this machine."""
        if self._process is not None and self._answers():
            self.empty()
        self.kill()
        for pid in self._started():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until("all that it started has ended", lambda: not self._started(), 40)
        for mount in reversed(mounts_below(self.folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        # The cable goes with the network; but that lives on while anything is still in it.
        for undo in (["ip", "link", "del", self.mark], ["ip", "netns", "del", self.mark]):
            subprocess.run(undo, capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        process = self._process
        assert process is not None
        assert process.poll() is None, f"the engine ended: {self.log[-2000:]}"
        return self.try_docker("version")[0] == 0

    def _started(self) -> list[int]:
        """Its runtime, one for each container that watches it, and all that is in its containers."""
        everyone = {int(path.name): path for path in Path("/proc").iterdir() if path.name.isdigit()}
        watchers = [pid for pid, path in everyone.items() if self._is_ours(path)]
        watched: list[int] = []
        for pid, path in everyone.items():
            parent = pid
            while (parent := _parent(everyone.get(parent))) and parent not in watchers:
                pass
            if parent and path.exists():
                watched.append(pid)
        return [*watchers, *watched]

    def _is_ours(self, process: Path) -> bool:
        """Whether it is a part of this engine, by its name and by the folder that it was told."""
        try:
            name, words = (process / "comm").read_text(), (process / "cmdline").read_bytes()
        except OSError:
            return False
        return name.startswith(("dockerd", "containerd")) and str(self.folder).encode() in words


def _parent(process: Path | None) -> int:
    try:
        return 0 if process is None else int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def mounts_below(folder: Path) -> list[str]:
    """Mount points under ``folder`` and on it, in the order they were mounted."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
