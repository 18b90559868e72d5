"""Fetching images in the background: one pull for all who wait for it, with pauses after failures.

What is fetched and how it goes is kept in memory only; after a restart the next
``ensure_running`` asks again and the engine goes on from the layers that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Unreachable
from tidemill.model.observation import InstanceId, Phase, Seen

DOCKER_HUB = "docker.io"
TELL_EVERY = 1.0  # seconds between two hints about one pull's progress
UNPACKING = 0.3  # the share of a layer's work that comes after its last byte


class Registry(Protocol):
    """The part of the engine that is needed here."""

    def pull(self, image: str, auth: Mapping[str, str] | None) -> AsyncIterator[dict[str, Any]]: ...


class Progress:
    """How far a pull is, from the engine's lines about single layers."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}  # layer: share of its work, 0-1
        self._sizes: dict[str, int] = {}
        self._shown: int | None = None

    def read(self, line: Mapping[str, Any]) -> int | None:
        """Take one line in; the percentage so far (0-100, never falling), None while unknown."""
        layer, status = str(line.get("id") or ""), str(line.get("status") or "")
        detail: Mapping[str, Any] = line.get("progressDetail") or {}
        current, total = detail.get("current") or 0, detail.get("total") or 0
        if status in {"Pull complete", "Already exists"}:
            self._done[layer] = 1.0
        elif status in {"Download complete", "Verifying Checksum"}:
            self._done[layer] = max(self._done.get(layer, 0.0), 1 - UNPACKING)
        elif status == "Pulling fs layer":
            self._done.setdefault(layer, 0.0)
        elif status in {"Downloading", "Extracting"} and total > 0:
            share = min(1.0, max(0.0, current / total))
            done = share * (1 - UNPACKING) if status == "Downloading" else 1 - UNPACKING + share * UNPACKING
            self._done[layer] = max(self._done.get(layer, 0.0), done)
            self._sizes[layer] = max(self._sizes.get(layer, 0), total)
        if self._done:
            now = int(100 * self._share())
            self._shown = now if self._shown is None else max(self._shown, now)
        return self._shown

    def _share(self) -> float:
        """Layers weigh as many bytes as they have; those not yet known weigh like the mean."""
        mean = sum(self._sizes.values()) / len(self._sizes) if self._sizes else 1.0
        weights = {layer: self._sizes.get(layer, mean) for layer in self._done}
        return sum(self._done[layer] * weight for layer, weight in weights.items()) / sum(weights.values())


@dataclass(slots=True)
class _Pull:
    """One image under way, and the starts that wait for it."""

    wanted_by: dict[InstanceId, int] = field(default_factory=dict[InstanceId, int])
    percent: int | None = None
    failures: int = 0
    message: str = ""
    task: asyncio.Task[None] | None = None


class Pulls:
    """All pulls under way. ``pauses`` are the first and the longest pause after a failure, seconds."""

    def __init__(
        self,
        registry: Registry,
        registries: Mapping[str, tuple[str, str]],
        ring: Callable[[], None],
        pauses: tuple[float, float] = (2.0, 120.0),
    ) -> None:
        self._registry = registry
        self._logins = registries
        self._ring = ring
        self._pauses = pauses
        self._pulls: dict[str, _Pull] = {}

    def want(self, image: str, id: InstanceId, start: int) -> None:
        """See to it that ``image`` is fetched; returns at once."""
        pull = self._pulls.setdefault(image, _Pull())
        pull.wanted_by[id] = start
        if pull.task is not None and pull.task.done():
            pull.failures += 1
            pull.message = "The image was fetched, but the engine does not have it"
        if pull.task is None or pull.task.done():
            pull.task = asyncio.create_task(self._fetch(image, pull))

    def forget(self, id: InstanceId) -> None:
        """``id`` has its image, or needs none any more. A pull that nobody waits for is given up."""
        for image, pull in list(self._pulls.items()):
            if pull.wanted_by.pop(id, None) is not None and not pull.wanted_by:
                if pull.task is not None:
                    pull.task.cancel()
                del self._pulls[image]

    def seen(self) -> dict[InstanceId, Seen]:
        """What is to be shown of the instances that wait."""
        return {
            id: Seen(
                start,
                Phase.PULLING,
                percent=pull.percent,
                reason="BackOff" if pull.message else "",
                message=pull.message,
            )
            for pull in self._pulls.values()
            for id, start in pull.wanted_by.items()
        }

    async def close(self) -> None:
        tasks = [pull.task for pull in self._pulls.values() if pull.task is not None]
        self._pulls.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, image: str, pull: _Pull) -> None:
        """Until the engine says that it has it, or until cancelled."""
        while True:
            if pull.failures:
                first, longest = self._pauses
                await asyncio.sleep(min(longest, first * 2 ** min(pull.failures - 1, 30)))
            try:
                await self._fetch_once(image, pull)
            except (DockerError, Unreachable) as error:
                message = error.message if isinstance(error, DockerError) else str(error)
                pull.message = message.strip() or "The image could not be fetched"
                pull.failures += 1
                self._ring()
            else:
                # Whoever waits is asked for again by the caller, now that the image is there.
                pull.percent, pull.message = 100, ""
                self._ring()
                return

    async def _fetch_once(self, image: str, pull: _Pull) -> None:
        progress, told_at, loop = Progress(), 0.0, asyncio.get_running_loop()
        login = login_for(image, self._logins)
        async for line in self._registry.pull(full_name(image) if login else image, login):
            percent = progress.read(line)
            if percent is not None and percent != pull.percent:
                pull.percent, pull.message = percent, ""
                if loop.time() - told_at >= TELL_EVERY:
                    told_at = loop.time()
                    self._ring()


def registry_of(image: str) -> str:
    """The host that an image reference is fetched from."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else DOCKER_HUB


def login_for(image: str, logins: Mapping[str, tuple[str, str]]) -> dict[str, str] | None:
    """What the engine shows to the registry of ``image``; None for a registry without a login."""
    login = logins.get(registry_of(image))
    return None if login is None else {"username": login[0], "password": login[1]}


def full_name(image: str) -> str:
    """``image`` with its registry written out, as it has to be when a login goes with it."""
    if registry_of(image) != DOCKER_HUB or image.startswith(f"{DOCKER_HUB}/"):
        return image
    return f"{DOCKER_HUB}/{image if '/' in image else f'library/{image}'}"
