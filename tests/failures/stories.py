"""What users ask and what happens to instances, each as a story that is told again and again.

A story begins where ``before`` says, with alice's instance ``subject`` where it names one, beside a
neighbour of bob's that runs on a GPU and that nothing may ever touch. Its steps are past once they were
answered, so that it can be told on after the process that heard its beginning has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.failures.house import PACE, House, Start
from tests.stock import GPU_TYPE, Stocked

from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.actions.instances import list_instances
from tidemill.actions.launch import launch
from tidemill.actions.sshkeys import create_ssh_key, delete_ssh_key, list_ssh_keys
from tidemill.drivers.contract import Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import Conflict, NotFound, OutOfStock
from tidemill.model.lifecycle import Event, State
from tidemill.model.observation import InstanceId
from tidemill.settings import Settings

SUBJECT, NEIGHBOUR = "subject", "neighbour"
BODY = b'{"name": "subject"}'
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl alice@laptop"
Act = Callable[[House], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """``start`` is the start number that the subject ends with, whatever went wrong on the way.

    ``if_half`` is where it ends, without a reason, when the engine had made it half: its image was
    there after all.
    """

    name: str
    act: Act
    before: Act | None = None
    settings: Mapping[str, float] = field(default_factory=dict[str, float])
    cold: bool = False
    ends: State = State.RUNNING
    start: int = 1
    reason: str = ""
    if_half: State | None = None


async def beginning(story: Story, stocked: Stocked) -> Start:
    """Where the story begins, made by what it is made by: launches and passes, none of which go wrong."""
    house = House(stocked, Settings(**{**PACE, **story.settings}))
    house.boot()
    order = stocked.order(name=NEIGHBOUR, type_id=GPU_TYPE.id)
    id = await launch(house.process.context, house.caller(stocked.bob), order, key=None, body=b"")
    house.names[NEIGHBOUR], house.asked[id] = id, "running"
    await house.rest()
    if story.before is not None:
        await story.before(house)
    await house.rest()
    await house.process.gone()
    return house.keep()


# Steps


async def launches(house: House, *, key: str | None = "key of the subject", **order: Any) -> InstanceId:
    """With a key the call is repeated as it was; without one a client looks at the list first."""
    order.setdefault("name", SUBJECT)

    async def call(context: Context) -> str:
        return await launch(context, house.caller(), house.stocked.order(**order), key=key, body=BODY)

    async def look_first(context: Context) -> str:
        found, _ = await list_instances(
            context, house.caller(), page=1, size=10, status=None, name=SUBJECT, region=None,
            include_released=False,
        )  # fmt: skip
        return found[0].instance.id if found else await call(context)

    id = await house.ask("launch", call, again=look_first if key is None else None)
    house.names[SUBJECT] = id
    house.asked.setdefault(id, "running")
    return id


async def asks(house: House, event: Event) -> None:
    """Alice asks for her instance; after a terminate without an answer, "not there" is one."""
    id = house.names[SUBJECT]
    gone = (NotFound,) if event is Event.TERMINATE else ()
    await house.ask(f"ask {event}", lambda context: ask(context, house.caller(), id, event), settled_by=gone)
    house.asked[id] = {Event.STOP: "stopped", Event.TERMINATE: "gone"}.get(event, "running")  # type: ignore[assignment]


async def runs(house: House) -> None:
    await launches(house)
    await house.rest()


async def runs_on_a_gpu(house: House) -> None:
    await launches(house, type_id=GPU_TYPE.id)
    await house.rest()


async def is_stopped(house: House) -> None:
    await runs_on_a_gpu(house)
    await asks(house, Event.STOP)
    await house.rest()


async def has_failed(house: House) -> None:
    house.dials.refuses = "the image has no config"
    await runs_on_a_gpu(house)
    house.dials.refuses = ""


async def has_a_key(house: House) -> None:
    await adds_a_key(house)
    await runs(house)


async def adds_a_key(house: House) -> None:
    await house.ask(
        "add key",
        lambda context: create_ssh_key(context, house.caller(), name="laptop", public_key=PUBLIC_KEY),
        settled_by=(Conflict,),
    )


async def removes_a_key(house: House) -> None:
    async def call(context: Context) -> None:
        (key,) = await list_ssh_keys(context, house.caller())
        await delete_ssh_key(context, house.caller(), key.id)

    async def look_first(context: Context) -> None:
        if await list_ssh_keys(context, house.caller()):
            await call(context)

    await house.ask("remove key", call, again=look_first)


# Stories of one verb


async def launch_with_a_key(house: House) -> None:
    await launches(house)


async def launch_and_look_first(house: House) -> None:
    await launches(house, key=None)


async def launch_with_everything(house: House) -> None:
    await launches(
        house, type_id=GPU_TYPE.id, node_ports=(7891, 8888), data_disk_gb=10, init_script="true",
        enable_docker=True,
    )  # fmt: skip


async def launch_that_takes_its_time(house: House) -> None:
    house.dials.pull_seconds, house.dials.start_seconds = 2.0, 1.0
    await launches(house)


async def launch_and_terminate_at_once(house: House) -> None:
    await launches(house)
    await asks(house, Event.TERMINATE)


async def launch_and_stop_while_it_is_fetched(house: House) -> None:
    house.dials.pull_seconds = 10.0
    await launches(house)
    for _ in range(2):
        await house.process.run_pass()
    await asks(house, Event.STOP)


async def launch_when_there_is_stock_again(house: House) -> None:
    """Out of stock is an answer that uses no key up: the same key launches once there is room."""

    async def call(context: Context) -> str:
        try:
            await launch(
                context, house.caller(), house.stocked.order(name="full", type_id=GPU_TYPE.id),
                key="key of the late one", body=BODY,
            )  # fmt: skip
        except OutOfStock:
            return "out of stock"
        return "launched"

    assert await house.ask("launch when full", call) == "out of stock"
    await asks(house, Event.TERMINATE)
    await house.rest()
    id = await house.ask(
        "launch again",
        lambda context: launch(
            context, house.caller(), house.stocked.order(name="late", type_id=GPU_TYPE.id),
            key="key of the late one", body=BODY,
        ),
    )  # fmt: skip
    house.asked[id] = "running"


def user(event: Event) -> Act:
    async def act(house: House) -> None:
        await asks(house, event)

    return act


async def stop_that_takes_its_time(house: House) -> None:
    house.dials.stop_seconds = 5.0
    await asks(house, Event.STOP)


async def restart_that_takes_its_time(house: House) -> None:
    house.dials.stop_seconds, house.dials.start_seconds = 3.0, 3.0
    await asks(house, Event.RESTART)


async def stop_and_start_again(house: House) -> None:
    await asks(house, Event.STOP)
    await house.rest()
    await asks(house, Event.START)


async def terminate_that_is_refused_for_a_while(house: House) -> None:
    house.once("refuse", lambda: setattr(house.dials, "refuses_ends", "device or resource busy"))
    await asks(house, Event.TERMINATE)
    for _ in range(2):
        await house.process.run_pass()
        house.clock.pass_by(house.settings.beat)
    house.dials.refuses_ends = ""


# Stories of the world


async def its_process_ends(house: House) -> None:
    house.once("exit", lambda: world(house).play_exit(house.names[SUBJECT], 137))


async def it_vanishes(house: House) -> None:
    house.once("vanish", lambda: world(house).play_vanish(house.names[SUBJECT]))


async def the_engine_reboots(house: House) -> None:
    house.once("reboot", lambda: world(house).play_reboot())


async def there_is_a_stray(house: House) -> None:
    workload = Workload(
        id="notebook-of-nobody", start=1, tenant="nobody", hostname="stray", image="x", cpu=1,
        memory_mb=64, shm_mb=1, pids=1, ports=(), authorized_keys=(), host_key=b"",
    )  # fmt: skip
    house.once("stray", lambda: world(house).play_stray(workload))
    for _ in range(3):
        house.clock.pass_by(house.settings.full_pass)
        await house.rest()


async def no_room(house: House) -> None:
    house.dials.no_room = "the machine is full"
    await launches(house, type_id=GPU_TYPE.id)


async def refused(house: House) -> None:
    house.dials.refuses = "the image has no config"
    await launches(house, type_id=GPU_TYPE.id)


async def never_reachable(house: House) -> None:
    house.dials.never = True
    await launches(house, type_id=GPU_TYPE.id)


async def never_fetched(house: House) -> None:
    house.dials.pull_fails = "manifest unknown"
    await launches(house, type_id=GPU_TYPE.id)


async def the_engine_is_away(house: House) -> None:
    """A launch and a stop that are asked for while the engine does not answer."""
    house.once("goes", lambda: setattr(house.dials, "unreachable", "the engine is down"))
    await asks(house, Event.STOP)
    for _ in range(2):
        await house.process.run_pass()
        house.clock.pass_by(house.settings.beat)
    house.once("comes", lambda: setattr(house.dials, "unreachable", ""))


async def the_engine_is_away_for_a_launch(house: House) -> None:
    house.once("goes", lambda: setattr(house.dials, "unreachable", "the engine is down"))
    await launches(house)
    for _ in range(2):
        await house.process.run_pass()
        house.clock.pass_by(house.settings.beat)
    house.once("comes", lambda: setattr(house.dials, "unreachable", ""))


async def nothing_happens(house: House) -> None:
    """A server comes up on what another left, or looks at everything once more."""
    house.clock.pass_by(house.settings.full_pass)


async def the_server_is_replaced(house: House) -> None:
    """The first is told to stop in the middle of a launch; the second goes on."""
    house.dials.start_seconds = 3.0
    await launches(house)
    await house.process.run_pass()
    if "replaced" not in house.answers:
        await house.process.ends()
        house.answers["replaced"] = True
        house.boot(house.process.gate)


async def the_clock_is_set_back(house: House) -> None:
    await launches(house)
    await house.process.run_pass()
    house.once("clock", lambda: house.clock.set_back(3600))


async def the_clock_is_set_forward(house: House) -> None:
    house.dials.start_seconds = 3.0
    await launches(house)
    await house.process.run_pass()
    house.once("clock", lambda: house.clock.set_back(-3600))


def world(house: House) -> SimulatedDriver:
    return house.process.driver


STORIES: tuple[Story, ...] = (
    Story("launch with an Idempotency-Key", launch_with_a_key),
    Story("launch without one, looking at the list first", launch_and_look_first),
    Story("launch with every option", launch_with_everything),
    Story("launch that takes its time", launch_that_takes_its_time),
    Story("launch and terminate at once", launch_and_terminate_at_once, ends=State.RELEASED),
    Story("launch and stop while fetched", launch_and_stop_while_it_is_fetched, ends=State.STOPPED),
    Story("launch when there is stock again", launch_when_there_is_stock_again, runs_on_a_gpu,
          ends=State.RELEASED),
    Story("start", user(Event.START), is_stopped, start=2),
    Story("start what failed", user(Event.START), has_failed, start=2),
    Story("stop", user(Event.STOP), runs_on_a_gpu, ends=State.STOPPED),
    Story("stop what failed", user(Event.STOP), has_failed, ends=State.STOPPED),
    Story("stop that takes its time", stop_that_takes_its_time, runs, ends=State.STOPPED),
    Story("stop and start again", stop_and_start_again, runs_on_a_gpu, start=2),
    Story("restart", user(Event.RESTART), runs_on_a_gpu, start=2),
    Story("restart that takes its time", restart_that_takes_its_time, runs, start=2),
    Story("terminate", user(Event.TERMINATE), runs_on_a_gpu, ends=State.RELEASED),
    Story("terminate what is stopped", user(Event.TERMINATE), is_stopped, ends=State.RELEASED),
    Story("terminate what failed", user(Event.TERMINATE), has_failed, ends=State.RELEASED),
    Story("terminate that is refused for a while", terminate_that_is_refused_for_a_while, runs_on_a_gpu,
          ends=State.RELEASED),
    Story("add an ssh key while it runs", adds_a_key, runs),
    Story("remove an ssh key while it runs", removes_a_key, has_a_key),
    Story("its process ends", its_process_ends, runs_on_a_gpu, start=2),
    Story("it vanishes", it_vanishes, runs_on_a_gpu, start=2),
    Story("no room", no_room, ends=State.INITIALIZATION_FAILED, reason="NoRoom"),
    Story("refused", refused, ends=State.INITIALIZATION_FAILED, reason="Refused"),
    Story("never reachable", never_reachable, settings={"starting_deadline": 8},
          ends=State.STARTING_FAILED, reason="Overdue"),
    Story("never fetched", never_fetched, settings={"pulling_deadline": 8},
          ends=State.INITIALIZATION_FAILED, reason="Overdue", if_half=State.RUNNING),
    Story("a stray is removed", there_is_a_stray, runs),
    Story("the engine is away for a stop", the_engine_is_away, runs, ends=State.STOPPED),
    Story("the engine is away for a launch", the_engine_is_away_for_a_launch),
    Story("a full pass", nothing_happens, runs),
    Story("a server comes up on what another left", nothing_happens, is_stopped, cold=True,
          ends=State.STOPPED),
    Story("a server is replaced by another", the_server_is_replaced),
    Story("the clock is set back", the_clock_is_set_back),
    Story("the clock is set forward", the_clock_is_set_forward),
)  # fmt: skip
