"""The two clients: one that blocks, one that is awaited; the same calls on both."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Self

from tidemill.client.errors import ClientError
from tidemill.client.happenings import Happenings
from tidemill.client.kinds import Async, K, Sync
from tidemill.client.lines import Address, AwaitedLine, BlockingLine
from tidemill.client.sending import Manner, Retries
from tidemill.client.service import Service
from tidemill.surroundings import by_environment, by_instance

if TYPE_CHECKING:
    from types import TracebackType

    from tidemill.client.account import Account
    from tidemill.client.admin import Admin
    from tidemill.client.billing import Billing
    from tidemill.client.catalogue import Catalogue
    from tidemill.client.instances import Instances
    from tidemill.client.raw import Raw

TIMEOUT = 30.0  # seconds without a byte of an answer


class _Calls(Happenings[K]):
    """The subjects that there are, each imported when it is asked for."""

    @cached_property
    def raw(self) -> Raw[K]:
        from tidemill.client.raw import Raw

        return Raw(self.line, self.manner, awaits=self.is_async)

    @cached_property
    def instances(self) -> Instances[K]:
        from tidemill.client.instances import Instances

        return Instances(self.line, self.manner, awaits=self.is_async)

    @cached_property
    def catalogue(self) -> Catalogue[K]:
        from tidemill.client.catalogue import Catalogue

        return Catalogue(self.line, self.manner, awaits=self.is_async)

    @cached_property
    def account(self) -> Account[K]:
        from tidemill.client.account import Account

        return Account(self.line, self.manner, awaits=self.is_async)

    @cached_property
    def billing(self) -> Billing[K]:
        from tidemill.client.billing import Billing

        return Billing(self.line, self.manner, awaits=self.is_async)

    @cached_property
    def admin(self) -> Admin[K]:
        from tidemill.client.admin import Admin

        return Admin(self.line, self.manner, awaits=self.is_async)


def _address(url: str | None, api_key: str | None, token: str | None, timeout: float) -> Address:
    if url is not None:
        return Address(url, api_key, token, timeout)
    if api_key is not None or token is not None:
        raise ClientError("A key or a token is for one server: say its url as well")
    told = by_environment() or by_instance()
    if told is None:
        raise ClientError("Say the server's url, or set TIDEMILL_URL and TIDEMILL_API_KEY")
    return Address(told.url, told.api_key, told.token, timeout)


def _manner(url: str, service: Service | None, retries: Retries | None) -> Manner:
    return Manner(service or Service.at(url), retries or Retries())


class Client(_Calls[Sync]):
    """A client that waits for its answers. Close it, or use it in ``with``.

    ``url`` is the server's (``https://gpu.example.org``). One of ``api_key`` and ``token`` says who calls;
    without either, ``account.login`` does. Without a ``url``, all three are those of the environment
    (``TIDEMILL_URL``, ``TIDEMILL_API_KEY`` or ``TIDEMILL_TOKEN``) or, in an instance that has a key of its
    own, that server and key. ``timeout`` is in seconds without a byte of an answer, for one
    try; ``retries`` says how often and how long to try. ``service`` is told from the host's name where it
    is left out. Raises ClientError for an address or a key that can be none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        service: Service | None = None,
    ) -> None:
        address = _address(url, api_key, token, timeout)
        self._blocking = BlockingLine(address)
        super().__init__(self._blocking, _manner(address.url, service, retries), awaits=False)

    def close(self) -> None:
        """Give its connections back."""
        self._blocking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls[Async]):
    """The same calls, to be awaited; on asyncio and trio. Arguments as of :class:`Client`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        service: Service | None = None,
    ) -> None:
        address = _address(url, api_key, token, timeout)
        self._awaited = AwaitedLine(address)
        super().__init__(self._awaited, _manner(address.url, service, retries), awaits=True)

    async def close(self) -> None:
        """Give its connections back."""
        await self._awaited.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
