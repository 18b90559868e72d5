"""The Docker Engine's own calls, typed and with a time limit each; aiodocker does the talking.

Everything else of this driver speaks to the engine through here. An engine that gives no answer
is :class:`Unreachable`; an answer that says no is aiodocker's ``DockerError`` with the engine's
HTTP status, for the caller to read (``errors.py`` turns what is left into the contract's words).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar, cast

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import Unreachable
from tidemill.drivers.docker.errors import no_answer

T = TypeVar("T")

QUICK = 20.0  # seconds for what an idle engine answers in milliseconds
SLOW = 120.0  # seconds for what waits for the kernel: creating, starting, removing
SILENCE = 300.0  # seconds without a byte after which a pull counts as dead
CONNECT = 5.0  # seconds to get through to the engine at all
NO_CONNECTION = 900  # the status that aiodocker gives to "could not connect"


class Engine:
    """One Docker Engine at ``url`` (``unix:///path``, ``tcp://host:port``). Connects at first use."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._docker: Any = None  # aiodocker is typed in part only
        self._opening = asyncio.Lock()

    @property
    def is_local(self) -> bool:
        """Whether its files are on this machine."""
        return self.url.startswith("unix://")

    async def list_containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Rows of ``GET /containers/json``, stopped ones too."""
        filters = json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})

        async def work(docker: Any) -> list[dict[str, Any]]:
            rows = await docker.containers.list(all=True, filters=filters)
            return [row._container for row in rows]

        return await self._ask(work, QUICK)

    async def inspect_container(self, id: str) -> dict[str, Any]:
        return await self._ask(lambda docker: docker.containers.container(id).show(), QUICK)

    async def create_container(self, name: str, config: Mapping[str, Any]) -> str:
        """Returns the container's id. 404: no such image; 409: the name is in use."""

        async def work(docker: Any) -> str:
            return (await docker.containers.create(config, name=name)).id

        return await self._ask(work, SLOW)

    async def start_container(self, id: str) -> None:
        """A container that runs already is success."""
        await self._ask(lambda docker: docker.containers.container(id).start(), SLOW)

    async def stop_container(self, id: str, grace: float) -> None:
        """Returns when it has ended, by itself within ``grace`` seconds or killed then."""
        seconds = max(0, round(grace))
        await self._ask(lambda docker: docker.containers.container(id).stop(t=seconds), seconds + SLOW)

    async def rename_container(self, id: str, name: str) -> None:
        await self._ask(lambda docker: docker.containers.container(id).rename(name), QUICK)

    async def remove_container(self, id: str) -> None:
        """Kill it if it runs, and remove it with its anonymous volumes."""
        await self._ask(lambda docker: docker.containers.container(id).delete(force=True, v=True), SLOW)

    async def commit_container(self, id: str, repository: str, tag: str) -> None:
        """Make an image of its system disk; takes as long as copying what was written there."""
        await self._ask(
            lambda docker: docker.containers.container(id).commit(
                repository=repository, tag=tag, pause=False
            ),
            None,
        )

    async def list_networks(self) -> list[dict[str, Any]]:
        return await self._ask(lambda docker: docker.networks.list(), QUICK)

    async def create_network(self, config: Mapping[str, Any]) -> None:
        await self._ask(lambda docker: docker.networks.create(dict(config)), SLOW)

    async def remove_network(self, name: str) -> None:
        """404: there is none; 403: it has members."""
        await self._ask(lambda docker: _network(docker, name).delete(), SLOW)

    async def connect_network(self, name: str, container: str, endpoint: Mapping[str, Any]) -> None:
        config = {"Container": container, "EndpointConfig": dict(endpoint)}
        await self._ask(lambda docker: _network(docker, name).connect(config), SLOW)

    async def disconnect_network(self, name: str, container: str) -> None:
        config = {"Container": container, "Force": True}
        await self._ask(lambda docker: _network(docker, name).disconnect(config), SLOW)

    async def info(self) -> dict[str, Any]:
        return await self._ask(lambda docker: docker.system.info(), QUICK)

    async def list_images(self, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of ``GET /images/json``; ``filters`` are the engine's (``reference``, ``label``, ...)."""
        return await self._ask(lambda docker: docker.images.list(filters=filters), QUICK)

    async def remove_image(self, name: str) -> None:
        await self._ask(lambda docker: docker.images.delete(name, force=True), SLOW)

    async def pull(self, image: str, auth: Mapping[str, str] | None) -> AsyncIterator[dict[str, Any]]:
        """The lines of ``POST /images/create``. Raises DockerError with the engine's words."""
        docker = await self._open()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        try:
            async for line in docker.images.pull(image, auth=auth, stream=True, timeout=timeout):
                yield line
        except (DockerError, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            self._say_unanswered(error)

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[aiohttp.StreamReader]:
        """The body of a ``GET`` that may go on for ever, to be read in the caller's own time."""
        docker = await self._open()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
        url = f"{docker.docker_host}/{docker.api_version}/{path}"
        try:
            async with asyncio.timeout(QUICK):
                response = await docker.session.get(url, params=params, timeout=timeout)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._say_unanswered(error)
        try:
            if response.status >= 400:
                body = await bounded(response.content, 64 * 1024)
                raise DockerError(response.status, _message(body))
            yield response.content
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._say_unanswered(error)
        finally:
            response.close()

    async def close(self) -> None:
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()
            await docker.connector.close()

    async def _ask(self, work: Callable[[Any], Awaitable[T]], seconds: float | None) -> T:
        docker = await self._open()
        try:
            async with asyncio.timeout(seconds):
                return await work(docker)
        except (DockerError, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            self._say_unanswered(error)

    async def _open(self) -> Any:
        if self._docker is not None:
            return self._docker
        async with self._opening:
            if self._docker is None:
                docker = _client(self.url)
                try:
                    async with asyncio.timeout(QUICK):
                        await docker.version()  # settles the version of the API for all later calls
                    self._docker = docker
                except (DockerError, TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                    self._say_unanswered(error)
                finally:
                    if self._docker is None:
                        await docker.close()
                        await docker.connector.close()
        return self._docker

    def _say_unanswered(self, error: Exception) -> NoReturn:
        """The engine's own no stays as it is; everything else is no answer."""
        if isinstance(error, DockerError) and error.status != NO_CONNECTION:
            raise error
        raise Unreachable(no_answer(self.url, error)) from error


def _client(url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
    if url.startswith("unix://"):
        # No limit on connections: each user who follows a log holds one.
        connector = aiohttp.UnixConnector(url.removeprefix("unix://"), limit=0)
        return aiodocker.Docker(url="unix://localhost", connector=connector, timeout=timeout)
    return aiodocker.Docker(url=url, timeout=timeout)


def _network(docker: Any, name: str) -> Any:
    from aiodocker.networks import DockerNetwork

    return cast("Any", DockerNetwork)(docker, name)


async def bounded(content: aiohttp.StreamReader, most: int) -> bytes:
    """What comes of ``content``, ``most`` bytes of it at most."""
    read = bytearray()
    while len(read) < most and (chunk := await content.read(most - len(read))):
        read += chunk
    return bytes(read)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")
