"""Spend caps over the API: one's own, a key's, the operator's."""

from __future__ import annotations

from sqlalchemy import update
from tests.api.served import LAUNCH, Served

from tidemill.store.schema import users


async def test_a_cap_refuses_and_is_lifted(api: Served) -> None:
    token = api.token(api.stocked.alice)
    set_to = await api.post("/api/billing/cap", {"per": "hour", "limit": 1.0}, token)
    assert set_to.status_code == 200, set_to.text
    assert [(row["of"], row["per"], row["limit"]) for row in set_to.json()["caps"]] == [
        ("account", "hour", 1)
    ]
    refused = await api.post("/api/instance/create", LAUNCH, token)
    assert (refused.status_code, refused.json()["error"]) == (403, "overSpendCap")
    assert "spend cap of this account per hour" in refused.json()["message"]
    assert (await api.post("/api/billing/cap", {"per": "hour"}, token)).json()["caps"] == []
    assert (await api.post("/api/instance/create", LAUNCH, token)).status_code == 200


async def test_the_operators_cap_is_not_the_users_to_lift(api: Served) -> None:
    alice, bob = api.token(api.stocked.alice), api.token(api.stocked.bob)
    asked = {"username": "alice", "per": "month", "limit": 0}
    assert (await api.post("/api/admin/cap", asked, bob)).status_code == 404
    api.stocked.database.run(
        lambda c: c.execute(update(users).where(users.c.username == "bob").values(is_admin=True))
    )
    assert (await api.post("/api/admin/cap", asked, bob)).status_code == 200
    await api.post("/api/billing/cap", {"per": "month"}, alice)
    found = (await api.post("/api/billing/caps", {}, alice)).json()["caps"]
    assert [(row["of"], row["per"]) for row in found] == [("operator", "month")]
    assert (await api.post("/api/instance/create", LAUNCH, alice)).status_code == 403


async def test_only_ones_own_keys_and_no_key_for_itself(api: Served) -> None:
    token = api.token(api.stocked.alice)
    strange = {"per": "hour", "limit": 5, "apiKeyId": "not-mine"}
    assert (await api.post("/api/billing/cap", strange, token)).status_code == 404
    odd = await api.post("/api/billing/cap", {"per": "day", "limit": 5}, token)
    assert (odd.status_code, "[hour month]" in odd.json()["message"]) == (400, True)


async def test_the_cap_of_a_deleted_key_is_seen_and_lifted(api: Served) -> None:
    """It holds on for what was launched with the key."""
    token = api.token(api.stocked.alice)
    made = (await api.post("/api/user/apikey/create", {"name": "robot"}, token)).json()
    key_id = made["apiKey"]["id"]
    of_key = {"per": "month", "apiKeyId": key_id}
    await api.post("/api/billing/cap", of_key | {"limit": 2}, token)
    assert (await api.post("/api/instance/create", LAUNCH, {"X-API-Key": made["key"]})).status_code == 200
    await api.post("/api/user/apikey/delete", {"apiKeyId": key_id}, token)
    (found,) = (await api.post("/api/billing/caps", {}, token)).json()["caps"]
    assert (found["of"], found["apiKeyId"]) == ("apiKey", key_id)
    for other in (f"operator/{api.stocked.alice.id}", api.stocked.alice.id):
        assert (await api.post("/api/billing/cap", of_key | {"apiKeyId": other}, token)).status_code == 404
    bob = api.token(api.stocked.bob)
    assert (await api.post("/api/billing/cap", of_key, bob)).status_code == 404
    assert (await api.post("/api/billing/cap", of_key, token)).json()["caps"] == []
