"""Clients as they are in real life: they do not know whether they were heard, and ask again."""

from __future__ import annotations

import random
import subprocess
import threading
import time
import uuid
from typing import Any

import httpx
from tests.journeys.running import Server, Tenant
from tests.journeys.visiting import Person
from tests.kills.ledger import Ledger, Order, Written

MOST = 3  # instances that one client has at a time
ANSWERED_WITHIN = 180.0  # seconds after which a client that was never answered counts as a failure
PATIENCE = 6.0  # seconds that a request waits for its answer
HASTE = 0.03  # the same when the client is about to lose its connection
VISIT = 20.0  # seconds that a visit by ssh may take


class Client(threading.Thread):
    """One of the tenant's programs. It touches only what it launched itself."""

    def __init__(self, number: int, tenant: Tenant, person: Person, ledger: Ledger, seed: str) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.tenant = tenant
        self._person = person
        self._ledger = ledger
        self._dice = random.Random(f"{seed}/{self.name}")
        self._http = httpx.Client(base_url=tenant.server.url, trust_env=False)
        self._mine: list[Order] = []
        self.is_ready = threading.Event()
        self._body = tenant.request(image="kills")

    def run(self) -> None:
        try:
            self._begin()
            while self._ledger.take():
                self._one()
                self._ledger.count("operations")
        except Exception as error:  # what ends a client is what the test has to say
            self._ledger.complain(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self.is_ready.set()
            self._http.close()

    def _begin(self) -> None:
        """Before anything goes wrong: an instance with a data disk, and a file on both of its disks."""
        if self._ledger.take():
            order = self._launch(disk=1)
            self._ledger.count("operations")
            self._visit(order, ANSWERED_WITHIN)
            assert order.written, f"{order.id} let nobody in while nothing was wrong"
        self.is_ready.set()

    def _one(self) -> None:
        """One operation, told to the server until it says that it holds, or never will."""
        mine = [order for order in self._mine if order.asked != "gone"]
        if not mine or (len(mine) < MOST and self._dice.random() < 0.4):
            self._launch()
            return
        order = self._dice.choice(mine)
        if self._dice.random() < 0.5:
            self._visit(order, self._dice.uniform(1, 15))
        if order.asked == "stopped":
            self._ask(order, *self._dice.choice([("start", "running"), ("terminate", "gone")]))
        else:
            verbs = [("stop", "stopped"), ("terminate", "gone"), ("restart", "running")]
            (chosen,) = self._dice.choices(verbs, weights=[5, 4, 1])
            self._ask(order, *chosen)

    def _launch(self, disk: int | None = None) -> Order:
        name = f"i{uuid.UUID(int=self._dice.getrandbits(128)).hex[:12]}"
        size = self._dice.choice((0, 0, 1)) if disk is None else disk
        order = self._ledger.open(Order(self.tenant.username, name, f"key-{name}", size))
        answers = {self._create(order, hasty=self._dice.random() < 0.2)}
        if self._dice.random() < 0.3:  # not heard the answer, so to say
            answers.add(self._create(order))
            self._ledger.count("sent again though answered")
        if self._dice.random() < 0.15:
            answers |= self._twice_at_once(order)
        assert len(answers) == 1, f"one key launched {sorted(answers)}"
        (order.id,) = answers
        self._mine.append(order)
        self._ledger.count("launched")
        return order

    def _create(self, order: Order, *, hasty: bool = False) -> str:
        body: dict[str, Any] = self._body | {"name": order.name}
        body["instanceConfiguration"] = body["instanceConfiguration"] | {"extraDataDiskSizeDB": order.disk}
        answer = self._call("/api/instance/create", body, hasty=hasty, key=order.key)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()["instanceId"]

    def _twice_at_once(self, order: Order) -> set[str]:
        """The same launch sent by two at one time, as by a proxy that repeats."""
        got: list[str] = []

        def send() -> None:
            try:
                got.append(self._create(order))
            except Exception as error:
                self._ledger.complain(f"{self.name}, twice at once: {error}")

        other = threading.Thread(target=send, daemon=True)
        other.start()
        send()
        other.join()
        self._ledger.count("sent twice at once")
        return set(got)

    def _ask(self, order: Order, verb: str, asked: Any) -> None:
        """Ask until it holds. What the state forbids now (a start while it stops) is asked for later."""
        until = time.monotonic() + ANSWERED_WITHIN
        while True:
            answer = self._call(f"/api/instance/{verb}", {"instanceId": order.id})
            if answer.status_code == 200 or (verb == "terminate" and answer.status_code == 404):
                order.asked = asked
                self._ledger.count(verb)
                return
            assert answer.status_code == 409, (verb, order.id, answer.status_code, answer.text)
            if verb == "restart":  # it is not running, and that is that
                self._ledger.count("restart forbidden")
                return
            assert time.monotonic() < until, f"{verb} of {order.id} was forbidden for long: {answer.text}"
            time.sleep(0.2)

    def _visit(self, order: Order, seconds: float) -> None:
        """See what was asked for come true, if it does so in time; write a file into what runs."""
        row = self._wait(order, seconds)
        if row is None or order.asked != "running":
            return
        written = Written(
            f"kept-{uuid.UUID(int=self._dice.getrandbits(128)).hex[:8]}", time.monotonic(), order.disk > 0
        )
        places = ["/root", "/root/dataDisk"] if order.disk else ["/root"]
        command = " && ".join(f"echo {written.name} > {place}/{written.name}" for place in places)
        try:
            done = self._person.to(row).ssh(command, seconds=VISIT)
        except subprocess.TimeoutExpired:
            return
        if done.returncode == 0:  # else it was killed under us: what was not confirmed may be lost
            order.written.append(written)
            self._ledger.count("files written")

    def _wait(self, order: Order, seconds: float) -> dict[str, Any] | None:
        """Its row once it is as asked; None when it takes longer."""
        wanted = {"running": "Running", "stopped": "Stopped"}[order.asked]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            answer = self._call(f"/api/instance/{order.id}", None)
            assert answer.status_code == 200, (order.id, answer.status_code, answer.text)
            if answer.json()["instanceRuntimeInfo"]["status"] == wanted:
                return answer.json()
            time.sleep(0.1)
        return None

    def _call(self, path: str, body: Any, *, key: str = "", hasty: bool = False) -> httpx.Response:
        """Ask until there is an answer: a connection that is refused or cut, a server that is not well."""
        headers = {"Authorization": f"Bearer {self.tenant.token}"} | ({"Idempotency-Key": key} if key else {})
        until = time.monotonic() + ANSWERED_WITHIN
        while True:
            try:
                answer = self._http.request(
                    "GET" if body is None else "POST",
                    path,
                    json=body,
                    headers=headers,
                    timeout=HASTE if hasty else PATIENCE,
                )
                if answer.status_code < 500:
                    return answer
                said = f"{answer.status_code} {answer.text}"
                self._ledger.count(f"answered {answer.status_code}")
            except httpx.TransportError as error:
                said = repr(error)
                self._ledger.count("no answer")
            assert time.monotonic() < until, f"{path} was not answered for long: {said}"
            hasty = False
            time.sleep(self._dice.uniform(0.05, 0.4))


def shared(server: Server, person: Person, count: int, ledger: Ledger, seed: str) -> list[Client]:
    """``count`` clients, two to a tenant, so that there are strangers and members of one network."""
    tenants = [server.add_tenant(f"tenant-{number}") for number in range((count + 1) // 2)]
    for tenant in tenants:
        tenant.add_key(person.public_line)
    return [Client(number, tenants[number // 2], person, ledger, seed) for number in range(count)]
