"""Fetching from a private registry: the login, the progress, the way from there to running."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.drivers.docker.registry import Registry
from tests.drivers.docker.world import World, docker, is_reachable, until

from tidemill.model.observation import Phase, Seen

pytestmark = pytest.mark.docker


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry("me", "right", layer_mb=4, seconds=2) as made:
        yield made
        docker("rmi", "-f", made.image, check=False)


async def test_progress_is_seen_and_announced_until_it_runs(world: World, registry: Registry) -> None:
    driver = world.driver(registries={registry.host: ("me", "right")})
    one, two = (world.workload(image=registry.image) for _ in range(2))
    told = 0

    async def count() -> None:
        nonlocal told
        async for _ in driver.changes():
            told += 1

    counting = asyncio.create_task(count())
    await driver.ensure_running(one)
    await driver.ensure_running(two)
    assert len(driver._pulls._pulls) == 1, "one pull serves both"
    on_the_way: list[Seen | None] = []
    await until(driver, one.id, is_reachable(1), ask=one, seen_on_the_way=on_the_way)
    await until(driver, two.id, is_reachable(1), ask=two)
    counting.cancel()
    pulling = [seen for seen in on_the_way if seen is not None and seen.phase is Phase.PULLING]
    percents = [seen.percent for seen in pulling if seen.percent is not None]
    assert percents == sorted(percents)
    assert any(0 < percent < 70 for percent in percents)
    assert {seen.reason for seen in pulling} == {""}
    assert None not in on_the_way
    assert told >= 3
    # An image that asks for every GPU of the machine gets none.
    assert "NVIDIA_VISIBLE_DEVICES=void" in world.inspect(one)["Config"]["Env"]  # type: ignore[index]


async def test_a_wrong_password_is_told_and_the_right_one_helps(world: World, registry: Registry) -> None:
    wrong = world.driver(registries={registry.host: ("me", "wr0ng")}, pull_pauses=(0.1, 0.2))
    workload = world.workload(image=registry.image)
    await wrong.ensure_running(workload)
    seen = await until(wrong, workload.id, lambda seen: seen is not None and seen.reason == "BackOff")
    assert seen is not None
    assert "who are you" in seen.message or "unauthorized" in seen.message.lower()
    assert "wr0ng" not in seen.message
    right = world.driver(registries={registry.host: ("me", "right")})
    await until(right, workload.id, is_reachable(1), ask=workload)


async def test_an_image_that_is_there_is_never_fetched(world: World, registry: Registry) -> None:
    docker("tag", world.image, registry.image)
    registry.server.shutdown()
    driver = world.driver()
    workload = world.workload(image=registry.image)
    await driver.ensure_running(workload)
    assert driver._pulls._pulls == {}
    await until(driver, workload.id, is_reachable(1))
