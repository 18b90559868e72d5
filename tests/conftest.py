"""What many tests stand on: a clock they move, a real database, a catalogue with one node."""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest

from tests.postgres import NoPostgres, PostgresServer, postgres_server
from tests.stages import pytest_runtest_makereport, pytest_runtest_setup, pytest_terminal_summary
from tests.stock import HandClock, Stocked, stock
from tidemill.guest.base_image import ensure
from tidemill.guest.build import build
from tidemill.server import GC_THRESHOLD
from tidemill.store.database import Database
from tidemill.store.migrate import migrate

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup", "pytest_terminal_summary"]

# No example is late or slow to be drawn: how long one takes says something of the machine alone.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole run; ``new_database()`` gives each test one of its own."""
    try:
        with postgres_server() as server:
            yield server
    except NoPostgres as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database at the newest schema, with nothing in it."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database at the newest schema, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "tidemill.db"
    made = Database(f"sqlite:///{file}")
    migrate(made)
    made.close()
    return file


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """No other worker is in here meanwhile."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def guest_folder(all_workers: Path) -> Path:
    """A folder with a built guest, one for all workers: building takes seconds, and nobody changes it."""
    with _alone(all_workers / "guest.lock"):
        build(all_workers / "guest")
    return all_workers / "guest"


@pytest.fixture(scope="session")
def base_image() -> str:
    """The engine has the base image; making it takes a minute, once for all workers, and all other runs."""
    with _alone(Path(tempfile.gettempdir()) / "tidemill-test-base-image.lock"):
        return ensure()


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """A SQLite database at the newest schema, with nothing in it."""
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path)}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The same on each of the two databases."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes one more database with each call."""
    if request.param == "sqlite":
        file, numbers = request.getfixturevalue("migrated_file"), itertools.count()
        yield lambda: f"sqlite:///{shutil.copy(file, tmp_path / f'{next(numbers)}.db')}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    made: list[str] = []

    def make() -> str:
        made.append(server.new_database())
        return made[-1]

    yield make
    for url in made:
        server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def stocked(database: Database, clock: HandClock) -> Stocked:
    return stock(database, clock)


def pytest_collection_finish() -> None:
    """What was imported and collected stays, here as in the server: it is not looked through all the time."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


LONGEST = ("test_kills.py", "test_planted.py", "test_seeds.py", "test_up_journey.py")  # minutes, each of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long first: at the end no worker waits for another's."""
    marked = {
        mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in ("slow", "docker")
    }

    def turn(item: pytest.Item) -> int:
        if item.path.name in LONGEST:
            return LONGEST.index(item.path.name)
        longer = (item.path in marked["slow"], item.path in marked["docker"])
        return len(LONGEST) + (not longer[0]) + (not any(longer))

    items.sort(key=turn)
