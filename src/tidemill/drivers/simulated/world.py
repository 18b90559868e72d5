"""The world around a simulated engine: what happens to it that nobody asked for."""

from __future__ import annotations

from dataclasses import replace

from tidemill.drivers.contract import Workload
from tidemill.drivers.simulated.engine import Engine
from tidemill.drivers.simulated.journal import RUNNING
from tidemill.drivers.simulated.objects import RUNS, Made
from tidemill.model.observation import InstanceId, Phase, Seen

KILLED = 137


class World:
    """Everything here happens at once; an id or node that is not there is a KeyError."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def play_exit(self, id: InstanceId, exit_code: int = 1) -> None:
        """The main process of an instance ends by itself."""
        with self.engine.turn():
            self.engine.end(self.engine.made[id], exit_code=exit_code)

    def play_vanish(self, id: InstanceId) -> None:
        """Somebody removes an instance behind our back."""
        with self.engine.turn():
            self.engine.vanish(id)

    def play_return(self, id: InstanceId) -> bool:
        """What vanished is there again, as from a restored engine; False when its name is taken.

        It runs if it did, and if nobody has taken meanwhile what it needs; what would have become of it
        by itself does.
        """
        with self.engine.turn():
            made = self.engine.come_back(id)
            if id in self.engine.made:
                return False
            made.uninvited = True
            if made.seen.phase in RUNS and self._is_taken(made):
                made.seen, made.ahead = Seen(made.seen.start, Phase.EXITED, exit_code=KILLED), ()
            self.engine.put(made)
            self.engine.go_on(id)
            return True

    def _is_taken(self, made: Made) -> bool:
        return bool(made.node) and self.engine.spaces[made.node].clash(made.workload) is not None

    def play_stray(self, workload: Workload) -> None:
        """There is something with our label that nobody asked for, running."""
        with self.engine.turn():
            node = workload.node or next(iter(self.engine.spaces), "")
            seen = Seen(workload.start, Phase.REACHABLE)
            self.engine.put(Made(workload, seen, [workload.start], node, uninvited=True))

    def play_reclaim(self, id: InstanceId, notice_seconds: float = 0.0) -> None:
        """The provider takes a spot machine back: it says so, and ends it after the notice."""
        with self.engine.turn():
            made = self.engine.made[id]
            words = "the provider takes the machine back"
            told = replace(made.seen, reason="Reclaiming", message=f"{words} in {notice_seconds:g} s")
            gone = Seen(made.seen.start, Phase.EXITED, reason="Reclaimed", message=words, exit_code=KILLED)
            self.engine.foresee(made, (0.0, told), (notice_seconds, gone))

    def play_node_lost(self, node: str) -> None:
        """A machine stops answering: what runs on it runs on, and is not to be seen."""
        self._play_node(node, lost=True)

    def play_node_back(self, node: str) -> None:
        """It answers again."""
        self._play_node(node, lost=False)

    def _play_node(self, node: str, *, lost: bool) -> None:
        with self.engine.turn():
            self.engine.lose(node, lost=lost)

    def play_reboot(self) -> None:
        """The engine goes down and comes back: what ran has ended, what was on its way is lost."""
        with self.engine.turn():
            self.engine.forget_requests()
            for id, made in list(self.engine.made.items()):
                if made.seen.phase is Phase.PULLING:
                    self.engine.drop(id)
                elif made.seen.phase in RUNNING:
                    self.engine.end(made, exit_code=KILLED)
