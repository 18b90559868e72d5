"""Carrying one instance one step further: record what happened, ask the driver, record what came.

The caller holds the lease. No driver call is made inside a transaction.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from tidemill.clock import Clock
from tidemill.drivers.contract import Device, Driver, NoRoom, Port, Refused, Unreachable, Workload
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, move
from tidemill.model.observation import Seen
from tidemill.reconcile.decide import Happened, Plan, decide
from tidemill.settings import Settings
from tidemill.store import accounts, instances, reservations
from tidemill.store.database import Database

log = structlog.get_logger("reconcile")

STEPS_MOST = 6
PATIENCE = 0.8  # of a lease: the longest that one call of a driver may take


class Stepper:
    """Takes instances of one region forward through its driver."""

    def __init__(self, database: Database, clock: Clock, settings: Settings, driver: Driver) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._driver = driver

    async def step(self, instance: Instance, seen: Seen | None) -> tuple[Instance, datetime | None]:
        """Do what is owed; returns the instance as it is now and when to look again.

        Raises Stale when somebody else changed the instance meanwhile.
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
            return instance, plan.look_again
        return await self._call(instance, plan)

    async def _call(self, instance: Instance, plan: Plan) -> tuple[Instance, datetime | None]:
        again = None if plan.then is not None else plan.look_again
        before = instance.state
        try:
            async with asyncio.timeout(self._settings.lease * PATIENCE):
                instance = await self._ask(instance, plan)
        except Refused as error:
            instance = await self._failed(instance, Event.REFUSED, "Refused", str(error))
            again = self._at_the_beat()
        except NoRoom as error:
            instance = await self._failed(instance, Event.NO_ROOM, "NoRoom", str(error))
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

    async def _ask(self, instance: Instance, plan: Plan) -> Instance:
        """One driver call, and what follows from its success."""
        if plan.call is Wanted.RUNNING:
            revision = instance.revision
            await self._driver.ensure_running(await self._workload(instance))
            if instance.applied_revision != revision:
                instance = await self._write_note(instance, applied_revision=revision)
        elif plan.call is Wanted.STOPPED:
            await self._driver.ensure_stopped(instance.id)
        else:
            await self._driver.ensure_absent(instance.id)
        if plan.then is not None:
            instance = await self._record(instance, Happened(plan.then))
        if instance.reason == "EngineUnreachable" or (instance.state is State.RUNNING and instance.reason):
            instance = await self._write_note(instance, reason="", message="")
        return instance

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
        now = self._clock.now()

        def work(connection: Connection) -> Instance:
            return instances.record(
                connection,
                instance,
                happened.event,
                now,
                reason=happened.reason,
                message=happened.message,
                not_before=happened.not_before,
                failures=happened.failures,
            )

        changed = await self._database.write(work)
        log.info(
            "instance moved",
            instance=instance.id,
            happened=happened.event.value,
            before=instance.state.value,
            after=changed.state.value,
            start=changed.start,
        )
        return changed

    async def _note(self, instance: Instance, plan: Plan) -> Instance:
        learned = dict(plan.learned)
        if "init_exit" not in learned:
            return await self._write_note(instance, **learned)
        now = self._clock.now()
        code = learned.pop("init_exit")
        message = (
            "The init script was interrupted; it is not run again"
            if code == -1
            else f"The init script ended with exit code {code}"
        )
        happened = "initScriptEnded" if code == 0 else "initScriptFailed"

        def work(connection: Connection) -> Instance:
            changed = instances.note(connection, instance, init_exit=code, **learned)
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
                    for port in reservations.ports_of(connection, [instance.id]).get(instance.id, ())
                ),
                authorized_keys=tuple(key.public_key for key in keys if chosen is None or key.id in chosen),
                host_key=instance.host_key,
                init_script=instance.init_script,
                env=instance.env,
                devices=tuple(
                    Device(row.device_id, row.name, tuple(row.paths))
                    for row in (reservations.devices_of(connection, instance.id) if instance.gpu_num else ())
                ),
                data_disk_gb=instance.data_disk_gb,
            )

        return await self._database.read(work)
