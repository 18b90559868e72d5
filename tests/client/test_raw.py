"""Calls by their path, and answers as they came."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.test_instances import page, row
from tests.client.told import Told, answered
from tests.journeys.running import Server, Tenant
from tidemill.cli.instances import _listed  # pyright: ignore[reportPrivateUsage]
from tidemill.client import AsyncClient, Client, errors
from tidemill.client.effects import Reply
from tidemill.client.errors import NoAnswer
from tidemill.client.raw import Fields

LIST = ("/api/instance/list", "instances")
ID = "instanceMetadata.instanceId"
LOST = NoAnswer("broke off", sent=True)


def test_fields_are_attributes_and_what_is_not_there_is_none() -> None:
    fields = Fields(a=1, b=Fields(c="x"))
    assert (fields.a, fields.b.c, fields.z) == (1, "x", None)
    assert not hasattr(fields, "__deepcopy__")


def test_rows_of_all_pages_come_once_also_where_they_slide() -> None:
    told = Told([page(row(id="a"), row(id="b"), total=3), page(row(id="b"), row(id="c"), total=4)])
    found = list(told.client().raw.rows(*LIST, {"filter": {"status": ["Running"]}}, identity=ID, page_size=2))
    assert [each.instanceMetadata.instanceId for each in found] == ["a", "b", "c"]
    assert told.bodies() == [
        {"filter": {"status": ["Running"]}, "pager": {"currentPage": number, "pageSize": 2}}
        for number in (1, 2)
    ]


def test_a_post_is_sent_again_only_where_that_does_no_harm() -> None:
    told = Told([LOST, answered(200, {"a": 1})])
    assert told.client().raw.post("/api/x", {"b": 2}, repeatable=True) == {"a": 1}
    with pytest.raises(NoAnswer):
        Told([LOST]).client().raw.post("/api/x")


@pytest.mark.parametrize(
    "answer",
    [
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b"[" * 100_000),
        answered(200, []),
        answered(200, {"instances": {}, "pager": {"totalEntries": 1}}),
        answered(200, {"instances": ["x"], "pager": {"totalEntries": 1}}),
        answered(200, {"instances": [], "pager": {}}),
        answered(200, {"instances": [{"instanceMetadata": {}}], "pager": {"totalEntries": 1}}),
    ],
)
def test_what_is_no_answer_of_this_api_is_not_understood(answer: Any) -> None:
    with pytest.raises(errors.NotUnderstood):
        list(Told([answer]).client().raw.rows(*LIST, identity=ID))


def test_what_json_cannot_say_is_not_sent() -> None:
    told = Told([])
    with pytest.raises(errors.ClientError, match="cannot be written as JSON"):
        told.client().raw.post("/api/x", {"a": float("nan")})
    assert not told.sent


@pytest.mark.parametrize("path", ["https://elsewhere.example/api/balance", "//elsewhere.example", "api", ""])
def test_credentials_go_to_no_other_machine(path: str) -> None:
    told = Told([])
    raw = told.client().raw
    for call in (raw.get, raw.post, lambda path: list(raw.rows(path, "instances", identity=ID))):
        with pytest.raises(errors.ClientError, match="is no path"):
            call(path)
    assert not told.sent


async def test_both_clients_have_them(server: Server, user: Tenant) -> None:
    with Client(server.url, token=user.token) as client:
        assert client.raw.get("/api/balance").currency == client.billing.balance().currency
        with pytest.raises(errors.NotFound):
            client.raw.get("/api/nothing")
    async with AsyncClient(server.url, token=user.token) as awaited:
        regions = await awaited.raw.post("/api/resource/region/list", repeatable=True)
        assert [each.regionName for each in regions.regions] == [
            each.regionName for each in await awaited.catalogue.regions()
        ]


@pytest.mark.parametrize("billing", ["x", [], 7, {"price": "abc"}, {"price": {}}])
def test_ls_understands_no_instance_whose_price_is_no_number(billing: Any) -> None:
    odd = row()
    odd["instanceSpecInfo"]["billing"] = billing
    with pytest.raises(errors.NotUnderstood, match="price"):
        _listed(Told([page(odd, total=1)]).client(), None, released=False)
