"""Carrying one instance one step further: record what happened, ask the driver, record what came.

The caller holds the lease. No driver call is made inside a transaction.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from tidemill.actions.instance_keys import access_of
from tidemill.clock import Clock
from tidemill.drivers.contract import Device, Driver, NoRoom, Port, Refused, Unreachable, Workload
from tidemill.metrics import Metrics
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, move
from tidemill.model.observation import Seen
from tidemill.reconcile.decide import Happened, Plan, decide
from tidemill.reconcile.presence import Presence
from tidemill.settings import Settings
from tidemill.store import accounts, instances, nodes, reservations
from tidemill.store.database import Database

log = structlog.get_logger("reconcile")

STEPS_MOST = 6
# What an operator counts as a failure, when it comes with a reason.
TROUBLE = frozenset({Event.REFUSED, Event.NO_ROOM, Event.OVERDUE, Event.EXITED, Event.ABSENT, Event.LOST})


class LeaseLost(Exception):
    """Somebody else may be working on the instance by now: leave it alone."""


class Stepper:
    """Takes instances of one region forward through its driver, as long as ``presence`` is sure."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        driver: Driver,
        presence: Presence,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._driver = driver
        self._presence = presence
        self._metrics = metrics

    async def step(self, instance: Instance, seen: Seen | None) -> tuple[Instance, datetime | None]:
        """Do what is owed; returns the instance as it is now and when to look again.

        Raises Stale when somebody else changed the instance meanwhile, LeaseLost.
        """
        plan = Plan()
        for _ in range(STEPS_MOST):
            plan = decide(instance, seen, self._clock.now(), self._settings)
            if plan.happened is None:
                break
            instance = await self._record(instance, plan.happened)
        if plan.learned:
            instance = await self._note(instance, plan)
        if plan.call is None:
            if instance.reason == "EngineUnreachable":  # it was looked for: the engine answers
                instance = await self._write_note(instance, reason="", message="")
            return instance, plan.look_again
        return await self._call(instance, plan)

    async def _call(self, instance: Instance, plan: Plan) -> tuple[Instance, datetime | None]:
        again = None if plan.then is not None else plan.look_again
        before = instance.state
        try:
            async with asyncio.timeout(self._settings.driver_patience):
                instance, is_done = await self._ask(instance, plan)
            if not is_done:
                again = self._at_the_beat()
        except Refused as error:
            instance = await self._failed(instance, Event.REFUSED, "Refused", str(error))
            again = self._at_the_beat()
        except NoRoom as error:
            instance = await self._another_port(instance, error.node_port) or await self._failed(
                instance, Event.NO_ROOM, "NoRoom", str(error)
            )
            again = self._at_the_beat()
        except (Unreachable, TimeoutError) as error:
            why = str(error) or "it did not answer in time"
            log.warning("the engine gives no answer", instance=instance.id, wanted=plan.call, error=why)
            instance = await self.say_unreachable(instance)
            again = self._at_the_beat()
        if instance.state is not before and plan.then is None:  # it failed: what it held is to be freed
            again = self._clock.now()
        return instance, again

    async def say_unreachable(self, instance: Instance) -> Instance:
        """Show that it waits for its engine. Raises Stale."""
        return await self._say(
            instance, "EngineUnreachable", "The machine gives no answer at present; it is being tried again"
        )

    def _at_the_beat(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._settings.beat)

    async def _ask(self, instance: Instance, plan: Plan) -> tuple[Instance, bool]:
        """One driver call, and what follows from its success; False when that has to wait."""
        is_done = True
        if plan.call is Wanted.RUNNING:
            revision = instance.revision
            workload = await self._workload(instance)
            self._check_lease()
            with self._metrics.call(instance.region_id, "ensure_running"):
                await self._driver.ensure_running(workload)
            if instance.applied_revision != revision:
                instance = await self._write_note(instance, applied_revision=revision)
        elif plan.call is Wanted.STOPPED:
            self._check_lease()
            with self._metrics.call(instance.region_id, "ensure_stopped"):
                is_done = await self._driver.ensure_stopped(instance.id) or plan.then is None
        else:
            self._check_lease()
            with self._metrics.call(instance.region_id, "ensure_absent"):
                await self._driver.ensure_absent(instance.id)
        if plan.then is not None and is_done:
            instance = await self._record(instance, Happened(plan.then))
        if instance.reason == "EngineUnreachable" or (instance.state is State.RUNNING and instance.reason):
            instance = await self._write_note(instance, reason="", message="")
        return instance, is_done

    def _check_lease(self) -> None:
        """Right before each call: a process that stood still must not go on where it was."""
        if not self._presence.is_sure:
            raise LeaseLost

    async def _another_port(self, instance: Instance, taken: int | None) -> Instance | None:
        """Have it try another node port than one that somebody else has; None when that is no way out.

        Once it has run, its user knows its ports.
        """
        if taken is None or instance.started_at is not None:
            return None
        now = self._clock.now()

        def work(connection: Connection) -> Instance | None:
            port = reservations.give_another_port(
                connection, instance.id, instance.node_id, taken, self._settings.node_ports
            )
            if port is None:
                return None
            changed = instances.note(connection, instance)
            said = f"Node port {taken} is in use by another program of the machine; it gets {port} instead"
            instances.tell(connection, changed, now, "portChanged", said)
            return changed

        changed = await self._database.write(work)
        if changed is not None:
            log.warning("a node port is in use by another program", instance=instance.id, port=taken)
        return changed

    async def _failed(self, instance: Instance, event: Event, reason: str, message: str) -> Instance:
        log.warning("the engine refused", instance=instance.id, reason=reason, error=message)
        if move(instance.state, event) is not None:
            return await self._record(instance, Happened(event, reason, message))
        return await self._say(instance, reason, message)

    async def _say(self, instance: Instance, reason: str, message: str) -> Instance:
        """Show why it does not go on.

        Why it failed stays, and so does that it is overdue, which would else be found again.
        """
        failed = STATES[instance.state].keeps is Keeps.UNTIL_SEEN_STOPPED
        stays = instance.reason == "Overdue" or (failed and instance.reason)
        if stays or (instance.reason, instance.message) == (reason, message):
            return instance
        return await self._write_note(instance, reason=reason, message=message)

    async def _record(self, instance: Instance, happened: Happened) -> Instance:
        def work(connection: Connection) -> Instance:
            return instances.record(
                connection,
                instance,
                happened.event,
                self._clock.now(),  # a database that answers late has others post meanwhile
                reason=happened.reason,
                message=happened.message,
                not_before=happened.not_before,
                failures=happened.failures,
                start=happened.start,
                ended_at=happened.ended_at,
            )

        changed = await self._database.write(work)
        self._count(happened, instance, changed)
        log.info(
            "instance moved",
            instance=instance.id,
            happened=happened.event.value,
            before=instance.state.value,
            after=changed.state.value,
            start=changed.start,
        )
        return changed

    def _count(self, happened: Happened, before: Instance, after: Instance) -> None:
        if after is before:
            return
        region = after.region_id
        self._metrics.moves.add(region, happened.event.value, after.state.value)
        if happened.event in TROUBLE and happened.reason:
            self._metrics.failed(region, happened.reason)
        if before.started_at is None and after.started_at is not None:
            self._metrics.launch_seconds.observe(
                (after.started_at - after.created_at).total_seconds(), region
            )

    async def _note(self, instance: Instance, plan: Plan) -> Instance:
        told = _what_is_told(plan)
        now = self._clock.now()

        def work(connection: Connection) -> Instance:
            changed = instances.note(connection, instance, **plan.learned)
            for happened, message in told:
                instances.tell(connection, changed, now, happened, message)
            return changed

        return await self._database.write(work)

    async def _write_note(self, instance: Instance, **columns: object) -> Instance:
        return await self._database.write(lambda connection: instances.note(connection, instance, **columns))

    async def _workload(self, instance: Instance) -> Workload:
        def work(connection: Connection) -> Workload:
            keys = accounts.ssh_keys(connection, instance.user_id)
            chosen = instance.ssh_key_ids
            return Workload(
                id=instance.id,
                start=instance.start,
                tenant=instance.user_id,
                hostname=instance.hostname,
                image=instance.image_reference,
                cpu=instance.cpu_milli / 1000,
                memory_mb=instance.memory_mb,
                shm_mb=instance.shm_mb,
                pids=instance.pids,
                ports=tuple(
                    Port(port.port, port.node_port)
                    for port in reservations.ports_of_one(connection, instance.id)
                ),
                authorized_keys=tuple(key.public_key for key in keys if chosen is None or key.id in chosen),
                revision=instance.revision,  # read before the keys, which are as new or newer
                notices=tuple(notice.line for notice in instance.notices),
                host_key=instance.host_key,
                init_script=instance.init_script,
                env=instance.env,
                access=access_of(self._settings, instance),
                devices=tuple(
                    Device(device_id, name, tuple(paths))
                    for device_id, name, paths in (
                        reservations.devices_of(connection, instance.id) if instance.gpu_num else ()
                    )
                ),
                data_disk_gb=instance.data_disk_gb,
                node=nodes.name_of(connection, instance.node_id),
            )

        return await self._database.read(work)


def _what_is_told(plan: Plan) -> list[tuple[str, str]]:
    """Lines of the history for what was learned, with the word for each."""
    told: list[tuple[str, str]] = []
    start, code = plan.learned.get("start"), plan.learned.get("init_exit")
    if start is not None:
        told.append(("startFound", f"The machine is at start {start} of it, which the server did not know"))
    if code == -1:
        told.append(("initScriptFailed", "The init script was interrupted; it is not run again"))
    elif code is not None:
        happened = "initScriptEnded" if code == 0 else "initScriptFailed"
        told.append((happened, f"The init script ended with exit code {code}"))
    return told
