"""Both clients against a real server: every call that there is, and what they share."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until
from tidemill.client import AsyncClient, Client, Retries, errors
from tidemill.client.orders import offers
from tidemill.client.service import Service


@pytest.fixture
def client(server: Server, user: Tenant) -> Iterator[Client]:
    with Client(server.url, token=user.token) as made:
        yield made


@pytest.fixture
def admin(server: Server, operator: Tenant) -> Iterator[Client]:
    with Client(server.url, token=operator.token) as made:
        yield made


@pytest.fixture
async def awaited(server: Server, user: Tenant) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, token=user.token) as made:
        yield made


def test_a_life(client: Client) -> None:
    made = client.instances.launch("life", "small", "debian", ports=[8080], data_disk_gb=1)
    statuses = [row.instanceRuntimeInfo.status for row in client.instances.watch(made)]
    assert (statuses[0], statuses[-1]) == ("Initializing", "Running")
    row = client.instances.get(made)
    assert [port.port for port in row.instanceSpecInfo.nodePorts] == [22, 8080]
    assert row.instanceSpecInfo.billing is not None
    assert row.instanceSpecInfo.billing.price == 1.5
    client.instances.stop(made)
    client.instances.stop(made)  # again: nothing
    assert client.instances.wait_until_stopped(made).instanceRuntimeInfo.status == "Stopped"
    assert client.instances.quote_start(made).price == 1.5
    client.instances.start(made)
    client.instances.wait_until_running(made)
    client.instances.restart(made)
    client.instances.wait_until_running(made)
    assert client.instances.usage(made).instanceName == "life"
    client.instances.terminate(made)
    until("it is gone", lambda: client.instances.page(name="life").pager.totalEntries == 0)
    with pytest.raises(errors.NotFound):
        client.instances.start(made)
    assert [row.instanceMetadata.instanceId for row in client.instances.list(include_released=True)] == [made]
    seen = list(client.instances.events(made))
    assert (seen[0].event, seen[-1].to) == ("launch", "Released")


def test_what_can_be_rented_and_what_it_costs(client: Client) -> None:
    found = {each.type.instanceTypeName: each for each in offers(client.catalogue.stock())}
    assert set(found["small"].modes) == {"perHour", "tidePerHour", "perWeek"}
    small = found["small"]
    (region,) = client.catalogue.regions()
    assert region.regionId == small.region.regionId
    assert [image.imageName for image in client.catalogue.images()] == ["Debian 12"]
    price = client.billing.price(small.type.instanceTypeId, region.regionId)
    assert {each.chargeMode: each.price for each in price.price}["tidePerHour"] == 0.9
    assert sum((each.end - each.start for each in price.segments), timedelta()) == timedelta(hours=48)


def test_keys_of_both_kinds_and_what_each_may(server: Server, client: Client) -> None:
    made = client.account.create_api_key("ci", scope="read", expires_at=datetime.now(UTC) + timedelta(days=1))  # noqa: TID251
    assert made.apiKey.id in [key.id for key in client.account.api_keys()]
    with Client(server.url, api_key=made.key) as reading:
        assert reading.account.me().scope == "read"
        with pytest.raises(errors.Forbidden) as caught:
            reading.instances.launch("no", "small", "debian")
        assert caught.value.code == "readOnlyKey"
        client.account.delete_api_key(made.apiKey.id)
        with pytest.raises(errors.NotLoggedIn):
            reading.account.me()
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE a comment"
    key = client.account.add_ssh_key(line)
    assert key.name == "a comment"
    assert [each.id for each in client.account.ssh_keys()] == [key.id]
    with pytest.raises(errors.BadRequest):
        client.account.add_ssh_key("no key at all")
    client.account.delete_ssh_key(key.id)


def test_money_as_the_operator_and_its_owner_see_it(admin: Client, client: Client, user: Tenant) -> None:
    before = client.billing.balance().balance
    first = admin.admin.credit(user.username, Decimal("12.345678"), id="invoice 7")
    again = admin.admin.credit(user.username, Decimal("12.345678"), id="invoice 7")
    assert first.transaction.id == again.transaction.id
    assert client.billing.balance().balance == pytest.approx(before + 12.345678)
    admin.admin.voucher(user.username, 5, name="welcome", expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert admin.admin.monthly_credit(user.username, "2.5").monthlyCredit == 2.5
    row = next(row for row in admin.admin.users(username=user.username) if row.username == user.username)
    assert (row.availableVoucherAmount, row.monthlyCredit) == (5, 2.5)
    mine = [each.id for each in client.billing.transactions(page_size=1)]
    assert mine == [each.id for each in admin.admin.transactions(user.username)]
    (cap,) = client.billing.cap("month", 1000)
    assert (cap.of, cap.per, cap.limit) == ("account", "month", 1000)
    assert client.billing.cap("month", None) == []
    assert admin.admin.cap(user.username, "hour", 500)[0].of == "operator"
    assert client.billing.caps()[0].limit == 500
    admin.admin.cap(user.username, "hour", None)
    with pytest.raises(errors.NotFound):
        client.admin.credit(user.username, 1)


def test_a_statement_as_csv_adds_up_to_what_the_pages_say(
    client: Client, admin: Client, user: Tenant
) -> None:
    admin.admin.credit(user.username, "0.000001")
    page = client.billing.statement(size=1)
    text = b"".join(client.billing.statement_csv(until=page.until)).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == page.pager.totalEntries + 2
    assert sum((Decimal(line["amount"] or 0) for line in lines), Decimal()) == Decimal(lines[-1]["owned"])
    assert Decimal(lines[-1]["owned"]) == Decimal(repr(page.closing))
    with pytest.raises(ValueError, match="needs a time zone"):
        client.billing.statement(since=datetime(2026, 1, 1))  # noqa: DTZ001


def test_prices_of_the_operator(admin: Client) -> None:
    offer = next(each for each in offers(admin.catalogue.stock()) if each.type.instanceTypeName == "tidal")
    night = {"name": "night", "from": "22:00", "to": "06:00", "price": 0.25}
    row = admin.admin.set_price(
        offer.region.regionId,
        "tidePerHour",
        "2.25",
        instance_type_id=offer.type.instanceTypeId,
        bands=[night],
    )
    assert (row.price, row.bands[0].from_, row.bands[0].price) == (2.25, "22:00", 0.25)
    newest = next(admin.admin.prices(charge_mode="tidePerHour"))
    assert newest == row


def test_bad_orders_are_refused_in_the_servers_words(client: Client) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        client.instances.create({})
    assert (str(caught.value), caught.value.code) == ('field "name" is not set', "fieldNotSet")
    with pytest.raises(errors.Unknown, match="there is: small, wide, tidal"):
        client.instances.launch("x", "gigantic", "debian")
    client.instances.launch("one", "wide", "debian")
    with pytest.raises(errors.OutOfStock, match="wide"):
        client.instances.launch("two", "wide", "debian")
    assert client.instances.quote({**_order(client)}).available > 0
    for row in client.instances.list():
        client.instances.terminate(row.instanceMetadata.instanceId)


def _order(client: Client) -> dict[str, Any]:
    small = next(each for each in offers(client.catalogue.stock()) if each.type.instanceTypeName == "small")
    return {
        "name": "order",
        "imageId": client.catalogue.images()[0].imageId,
        "instanceTypeId": small.type.instanceTypeId,
        "region": small.region.regionId,
        "billing": {"chargeMode": "perHour", "duration": 1},
        "remoteStorages": [],
        "instanceConfiguration": {"enableCommonData": False, "enableDocker": False, "initScript": ""},
        "nodePorts": [],
    }


async def test_the_awaited_client_has_the_same_calls(awaited: AsyncClient, client: Client) -> None:
    order = _order(client)
    async with awaited.instances.launched(order, timeout=30) as row:
        made = row.instanceMetadata.instanceId
        names = [each.instanceMetadata.instanceId async for each in awaited.instances.list(page_size=1)]
        assert made in names
        assert (await awaited.billing.balance()).held > 0
        assert [event.to async for event in awaited.instances.events(made)][-1] == "Running"
        async with aclosing(awaited.instances.list()) as listing:
            assert await anext(listing)
    assert client.instances.get(made).instanceRuntimeInfo.status in {"Stopping", "Released"}
    with pytest.raises(errors.NotFound):
        await awaited.admin.credit("anybody", 1)
    assert b"".join([piece async for piece in awaited.billing.statement_csv()]).startswith(b"at,kind")


async def test_what_is_cancelled_while_it_waits_is_ended_all_the_same(
    awaited: AsyncClient, client: Client
) -> None:
    order = _order(client) | {"name": "cancelled"}
    entered = asyncio.Event()

    async def work() -> None:
        async with awaited.instances.launched(order):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.wait_for(entered.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(
        row.instanceRuntimeInfo.status == "Stopping" for row in client.instances.list(name="cancelled")
    )


def test_a_stream_that_is_left_gives_its_connection_back(client: Client) -> None:
    made = client.instances.launch("logs", "small", "debian")
    client.instances.wait_until_running(made)
    for _ in range(120):  # more than there are connections
        with closing(client.instances.list()) as rows:
            next(rows)
        with closing(client.billing.statement_csv()) as pieces:
            next(pieces)
    client.instances.terminate(made)


def test_who_is_asked_as_hpc_ai_is_asked_what_it_knows(server: Server, user: Tenant) -> None:
    """The same models and calls; only the part that HPC-AI's own service has is asked."""
    with Client(server.url, token=user.token, service=Service.HPC_AI) as client:
        made = client.instances.create(_order(client) | {"name": "there"})
        assert client.instances.wait_until_running(made).instanceMetadata.instanceUsername == "root"
        client.instances.terminate(made)
    assert Service.at("https://cloud.hpc-ai.com/api") is Service.HPC_AI
    assert Service.at("https://gpu.example.org") is Service.TIDEMILL


class _Elsewhere(BaseHTTPRequestHandler):
    """A page under /api/events, as a console's server answers; all else is to be had elsewhere."""

    def do_GET(self) -> None:
        moved = not self.path.startswith("/api/events")
        self.send_response(308 if moved else 200)
        if moved:
            self.send_header("Location", "https://gpu.example.org/")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, format: str, *args: Any) -> None:
        return


def test_another_program_is_not_taken_for_a_server() -> None:
    """A page is no log, and nobody waits for events that it will never send."""
    server = HTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", token="t") as client:
            with pytest.raises(errors.NotUnderstood, match=r"sends on to https://gpu\.example\.org/"):
                client.instances.get("notebook-1")
            with pytest.raises(errors.NotUnderstood, match="sends on to"):
                list(client.instances.logs("notebook-1"))
            with pytest.raises(errors.NotUnderstood, match="no stream of events"):
                next(client.events())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_that_is_not_there_is_said_to_be_not_there() -> None:
    with (
        Client("http://127.0.0.1:1", retries=Retries(attempts=2, first=0.01)) as client,
        pytest.raises(errors.NotConnected, match=re.escape("http://127.0.0.1:1: Connection refused")),
    ):
        client.billing.balance()
    for url in ("", "gpu.example.org", "ftp://gpu.example.org", "http://"):
        with pytest.raises(errors.ClientError, match="no address of a server"):
            Client(url)
    with pytest.raises(errors.ClientError, match="not both"):
        Client("http://x", api_key="tm_a", token="b")
    with pytest.raises(errors.ClientError, match="characters"):
        Client("http://x", api_key="tm_a\nX-Evil: 1")


def test_a_server_may_be_named_with_its_api_path(server: Server, user: Tenant) -> None:
    with Client(server.url + "/api/", token=user.token) as client:
        assert client.account.me().username == user.username


def test_what_happens_is_told_as_it_happens_and_goes_on_where_it_was(client: Client) -> None:
    made = client.instances.launch("told", "small", "debian")
    client.instances.wait_until_running(made)
    known = list(client.instances.events(made))
    with closing(client.events(instance_id=made, after=known[0].seq)) as stream:
        again = [next(stream) for _ in known[1:]]
        assert [each.seq for each in again] == [each.seq for each in known[1:]]
        client.instances.stop(made)
        assert next(stream).to == "Stopping"
    with closing(client.events(after=known[-1].seq)) as stream:
        assert next(stream).instanceName == "told"
    whole = [each.seq for each in client.events(instance_id=made, after=0, follow=False)]
    assert whole[: len(known)] == [each.seq for each in known]
    client.instances.terminate(made)


async def test_what_happens_is_told_to_those_who_await_it(awaited: AsyncClient) -> None:
    async with aclosing(awaited.events()) as stream:

        async def heard() -> None:
            async for each in stream:
                if each.instanceName == "heard":  # not what is left of an earlier test
                    return

        listening = asyncio.ensure_future(heard())
        made = ""
        while not listening.done():  # it may have begun to listen only after the first of them
            if made:
                await awaited.instances.terminate(made)
            made = await awaited.instances.launch("heard", "small", "debian")
            await asyncio.wait({listening}, timeout=1)
        await listening
    await awaited.instances.terminate(made)


def test_a_proxy_of_the_environment_is_not_for_this_machine(
    server: Server, user: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Client(server.url, token=user.token) as client:
        assert client.account.me().username == user.username
    with (
        Client("http://gpu.invalid", retries=Retries(attempts=1)) as client,
        pytest.raises(errors.NotConnected, match="refused"),
    ):
        client.account.me()
