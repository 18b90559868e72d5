"""What goes wrong while the clients work: each is a thread that does one kind of harm at random moments.

The moments come from a seed; what is hit by them does not, because time is real.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tests.journeys.engine_proxy import EngineProxy
from tests.journeys.running import Server
from tests.kills.engine import IMAGE, OwnEngine, mounts_below
from tests.kills.ledger import Imitation, Ledger

START_SECONDS = 180.0  # a server may take on a machine that has much else to do
INSTANCE, DEPLOYMENT = "tidemill.instance", "tidemill.deployment"


@dataclass
class Place:
    """Where it all happens. Whoever kills or starts the server or the engine has ``lock``."""

    server: Server
    engine: OwnEngine
    proxy: EngineProxy
    ledger: Ledger


class Trouble(threading.Thread):
    """Does harm until told to stop; :meth:`end` leaves things as they should be."""

    pause = (0.5, 2.0)

    def __init__(self, place: Place, seed: str) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.place = place
        self.dice = random.Random(f"{seed}/{self.name}")
        self._stop_now = threading.Event()

    def run(self) -> None:
        try:
            while not self._stop_now.wait(self.dice.uniform(*self.pause)):
                self.harm()
        except Exception as error:
            self.place.ledger.complain(f"{self.name}: {type(error).__name__}: {error}")

    def end(self) -> None:
        self._stop_now.set()
        self.join()
        self.mend()

    def _lives_for(self, times: float, start: Callable[[], object]) -> None:
        """After a start, the next harm comes within so many times what it took: a busy machine is slower."""
        begun = time.monotonic()
        start()
        shortest, longest = type(self).pause
        self.pause = (shortest, max(longest, times * (time.monotonic() - begun)))

    def wait(self, seconds: float) -> None:
        self._stop_now.wait(seconds)

    def harm(self) -> None:
        raise NotImplementedError

    def mend(self) -> None:
        """Undo what would go on doing harm."""


class ServerKiller(Trouble):
    """SIGKILL at any moment of its life, its start included."""

    pause = (0.1, 4.0)

    def harm(self) -> None:
        server, count = self.place.server, self.place.ledger.count
        server.stop(signal.SIGKILL)
        count("servers killed")
        while self.dice.random() < 0.4:
            server.process = server.spawn()
            self.wait(self.dice.uniform(0, 2.5))
            server.stop(signal.SIGKILL)
            count("servers killed while starting")
        self._lives_for(2.0, lambda: server.start(START_SECONDS))

    def mend(self) -> None:
        if self.place.server.process is None:
            self.place.server.start(START_SECONDS)


class EngineKiller(Trouble):
    """SIGKILL of ``dockerd``; the next one takes on what runs, or ends it."""

    pause = (1.5, 8.0)

    def harm(self) -> None:
        engine, count = self.place.engine, self.place.ledger.count
        engine.kill()
        count("engines killed")
        self.wait(self.dice.uniform(0, 1.5))
        live_restore = self.dice.random() < 0.5
        self._lives_for(5.0, lambda: engine.start(live_restore=live_restore))
        count(f"engines started that {'take on' if live_restore else 'end'} what runs")

    def mend(self) -> None:
        self.place.engine.wait()


class Meddler(Trouble):
    """Somebody with root's rights on the machine who does not ask the server."""

    pause = (0.3, 2.0)

    def harm(self) -> None:
        what = self.dice.choice(
            (self.remove, self.kill_main_process, self.unmount, self.start_what_was_stopped, self.imitate)
        )
        if what():
            self.place.ledger.count(f"behind our back: {what.__name__.replace('_', ' ')}")

    def remove(self) -> bool:
        """``docker rm -f`` of a container that is an instance."""
        chosen = self._a_container()
        if chosen is None:
            return False
        container, id = chosen
        done = self.place.engine.try_docker("rm", "--force", container)[0] == 0
        self.place.ledger.removed(id)  # also when the client lost its engine: it may have been done
        return done

    def kill_main_process(self) -> bool:
        chosen = self._a_container("--filter", "status=running")
        if chosen is None:
            return False
        return self.place.engine.try_docker("kill", "--signal", "KILL", chosen[0])[0] == 0

    def unmount(self) -> bool:
        mounts = mounts_below(self.place.server.folder / "mounts")
        if not mounts:
            return False
        done = subprocess.run(["umount", self.dice.choice(mounts)], capture_output=True, check=False)
        return done.returncode == 0

    def start_what_was_stopped(self) -> bool:
        chosen = self._a_container("--filter", "status=exited")
        return chosen is not None and self.place.engine.try_docker("start", chosen[0])[0] == 0

    def imitate(self) -> bool:
        """Make a container that looks like an instance's, in one way or another."""
        deployment, other = self.place.server.deployment, uuid.UUID(int=self.dice.getrandbits(128))
        id = f"notebook-{other}"
        known = self._a_container()
        ours, odd = f"tidemill-{deployment}-{id}-1", f"somebody-{other.hex[:8]}"
        name, labels = self.dice.choice(
            [
                (ours, {DEPLOYMENT: deployment, INSTANCE: id}),  # of an instance that never was
                (odd, {DEPLOYMENT: deployment, INSTANCE: id}),
                (
                    odd,
                    {DEPLOYMENT: deployment, INSTANCE: known[1] if known else id},
                ),  # as of a copy of its image
                (odd, {DEPLOYMENT: deployment}),
                (ours, {}),
            ]
        )
        made = self.place.ledger.imitations[name] = Imitation(labels.get(INSTANCE, ""), bool(labels))
        words = [word for label, value in labels.items() for word in ("--label", f"{label}={value}")]
        made.is_made = self.place.engine.try_docker("create", "--name", name, *words, IMAGE, "/none")[0] == 0
        return made.is_made

    def _a_container(self, *filters: str) -> tuple[str, str] | None:
        """One of the server's containers, and the instance that it is."""
        label = f"label={DEPLOYMENT}={self.place.server.deployment}"
        form = '{{.ID}} {{.Label "' + INSTANCE + '"}}'
        code, said = self.place.engine.try_docker(
            "ps", "--all", "--filter", label, *filters, "--format", form
        )
        lines = sorted(said.splitlines()) if code == 0 else []
        if not lines:
            return None
        container, _, id = self.dice.choice(lines).partition(" ")
        return container, id


class SlowEngine(Trouble):
    """The way to the engine takes long, or for ever, or there is none."""

    pause = (2.0, 8.0)

    def harm(self) -> None:
        proxy = self.place.proxy
        kind = self.dice.choice(("slow", "silent", "not there"))
        self.place.ledger.count(f"engine {kind}")
        if kind == "not there":
            proxy.down()
        else:
            proxy.delay = proxy.forever if kind == "silent" else self.dice.uniform(0.2, 1.5)
        self.wait(self.dice.uniform(0.5, 5.0))
        proxy.delay = 0.0
        if kind == "not there":
            proxy.up()
