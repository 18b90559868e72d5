"""The examination: everything is looked at once, and what may be passing twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from tidemill.api.callers import Trust
from tidemill.catalogue import Machine, Tables
from tidemill.clock import Clock
from tidemill.doctor import books, engine, machine
from tidemill.doctor.books import Books
from tidemill.doctor.engine import Looked
from tidemill.doctor.symptom import Report, Symptom
from tidemill.drivers.contract import Driver, DriverError
from tidemill.metrics import Metrics
from tidemill.model.errors import Misconfigured, TidemillError
from tidemill.model.offer import Region
from tidemill.reconcile.orphans import Orphans
from tidemill.server.engines import make_drivers
from tidemill.server.offering import regions_of
from tidemill.settings import Configuration
from tidemill.store import checkup, facts, fleet, migrate
from tidemill.store.checkup import Held
from tidemill.store.database import Database

SECOND_LOOK = 1.0  # seconds, after a beat: what was under way has been done then


class Examination:
    """One examination of one deployment; what was found is in ``report``, and kept for who mends it.

    Attributes:
        books: what the database says; None when it could not be asked.
        looked: what was seen of every region that answered, by its id.
        orphans: the orphans of these regions.
    """

    def __init__(self, configuration: Configuration, clock: Clock, database: Database) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.clock = clock
        self.database = database
        self.report = Report()
        self.books: Books | None = None
        self.regions: Sequence[Region] = ()
        self.looked: dict[str, Looked] = {}
        self.orphans: dict[str, Orphans] = {}
        self._drivers: Mapping[str, Driver] = {}

    async def look(self) -> None:
        """Look at everything there is to be seen."""
        deployment = await self._look_at_database()
        self._look_at_machine(deployment)
        if deployment is None:
            return
        try:
            self.books = await self._read_books()
            self._tell_of_books(self.books)
            await self._look_at_regions(deployment)
            await self._look_twice()
        except TidemillError as error:
            self.report.blind = error.message

    async def close(self) -> None:
        for driver in self._drivers.values():
            await driver.close()

    def _fact(self, label: str, text: str) -> None:
        self.report.facts.append((label, text))

    async def _look_at_database(self) -> str | None:
        """The deployment's label; None where there is nothing to compare with."""

        def work(connection: Connection) -> tuple[str | None, str | None, datetime | None]:
            revision = migrate.revision_of(connection)
            label = None if revision is None else facts.get(connection, facts.DEPLOYMENT)
            return revision, label, checkup.clock_of(connection)

        kind = "SQLite" if self.database.is_sqlite else "PostgreSQL"
        try:
            self.database.run_once(migrate.revision_of)  # a PostgreSQL that is down, or lets nobody in
            revision, label, at = await self.database.read_much(work)
        except TidemillError as error:
            self.report.blind = error.message
            return None
        self._fact("database", f"{kind}, revision {revision or 'none'}")
        if revision != migrate.newest():
            self.report.blind = (
                f"The database is at revision {revision or 'none'}, this version needs {migrate.newest()}; "
                "a server of this version brings it there when it starts"
            )
            return None
        if at is not None:
            self.report.symptoms += books.look_at_clock("database", at, self.clock.now())
        if label is None:
            self.report.blind = "No server has run on this deployment yet; start one first"
            return None
        self._fact("deployment", label)
        return label

    def _look_at_machine(self, deployment: str | None) -> None:
        folder = self.settings.data_dir
        holder = machine.holder_of(folder)
        self._fact("folder", f"{folder}, " + (f"held by process {holder}" if holder else "held by no server"))
        self.report.symptoms += machine.look_at_folder(self.settings, deployment)

    async def _read_books(self) -> Books:
        now = self.clock.now()
        return await self.database.read_much(lambda c: books.look(c, now, self.settings))

    def _tell_of_books(self, found: Books) -> None:
        self.report.symptoms += found.symptoms
        if not found.alive:
            self._fact("server", "none gives a sign of life")
        for server in found.alive:
            self._fact("server", f"{server.id} ({server.role}) at {server.address or 'no address'}")
        if found.restored_at:
            self._fact("restored", f"at {found.restored_at}; orphans are held since")
        for gone in found.gone:
            what = f"{gone.kind} {gone.name}, found {gone.found_at:%Y-%m-%d %H:%M} UTC"
            self._fact("orphan", f"{what}, {gone.outcome} {gone.ended_at:%Y-%m-%d %H:%M} UTC")
        for device in found.held:
            where = f"{device.node}/{device.device} ({device.model})"
            self._fact("device", f"{where} is held by {device.holder} ({_holder(device)})")

    async def _look_at_regions(self, deployment: str) -> None:
        try:
            self.regions = _catalogue(self.configuration)
            tables = Tables(self.configuration.tables)
            self._drivers = make_drivers(
                self.configuration, tables, list(self.regions), deployment, self.clock, to_look=True
            )
        except Misconfigured as error:
            remedy = "change it: no server starts until it is right"
            self.report.symptoms.append(Symptom("settings", "settings", error.message, remedy))
            return
        used = await self.database.read_much(fleet.regions_in_use)
        for id in sorted(used.keys() - {region.id for region in self.regions}):
            meaning = f"it has {used[id]} instances and is not configured any more: nobody works on them"
            remedy = f'put it back; to rename it, keep id = "{id}" in [[region]]'
            self.report.symptoms.append(Symptom("regionMissing", id, meaning, remedy))
        if any(region.driver == "docker" for region in self.regions):
            self.report.symptoms += machine.look_at_guest(self.settings)
        for region in self.regions:
            if region.id not in self._drivers:
                self._fact("region", f"{region.name}: its engine is in its server's memory, not looked at")
                continue
            self.orphans[region.id] = Orphans(
                self.database, self.clock, self.settings, region.id, self._drivers[region.id], Metrics()
            )
            self.report.symptoms += await self._look_at_region(region, tell=True)

    async def _look_at_region(self, region: Region, *, tell: bool = False) -> list[Symptom]:
        driver, orphans = self._drivers[region.id], self.orphans[region.id]
        try:
            looked = await engine.look(
                region, driver, orphans, self.database, self.clock.now(), self.settings
            )
        except (DriverError, TimeoutError) as error:
            return [engine.unreachable(region, error)]
        self.looked[region.id] = looked
        if tell:
            of = looked.report.version if looked.report is not None else region.driver
            what = f"{looked.many} instances in the engine, {len(looked.unwanted.things)} orphans"
            self._fact("region", f"{region.name}: {of}, {what}")
        if region.driver != "docker":
            return looked.symptoms
        low, high = self.settings.node_ports
        given = await self.database.read_much(lambda c: checkup.given_ports(c, region.id))
        return looked.symptoms + [
            Symptom(
                "portTaken",
                f"node port {port}",
                "something that is no instance listens on it, and who is given it cannot start",
                f"see what it is (ss -tlnp 'sport = :{port}'), or change node_ports",
                passing=True,
            )
            for port in sorted(machine.listening(low, high) - given)
        ]

    async def _look_twice(self) -> None:
        """Of what may be passing, keep what a second look finds as well."""
        if not any(symptom.passing for symptom in self.report.symptoms):
            return
        await self.clock.sleep(self.settings.beat + SECOND_LOOK)
        self.books = await self._read_books()
        again = list(self.books.symptoms)
        for region in self.regions:
            if region.id in self.looked:
                again += await self._look_at_region(region)
        confirmed = {(symptom.code, symptom.about) for symptom in again}
        self.report.symptoms = [
            symptom
            for symptom in self.report.symptoms
            if not symptom.passing or (symptom.code, symptom.about) in confirmed
        ]


def _holder(device: Held) -> str:
    if device.state is not None:
        return device.state
    return "cannot be read" if device.is_instance else "no instance"


def _catalogue(configuration: Configuration) -> Sequence[Region]:
    """The regions, and everything else that a server would refuse to start with. Raises Misconfigured."""
    settings = configuration.settings
    tables = Tables(configuration.tables)
    regions = regions_of(settings, tables)
    Trust.of(settings.public_url, settings.trusted_proxies)
    tables.images()
    tables.types(Machine(1, 1024, {}), regions)
    tables.devices()
    tables.registries()
    return regions
