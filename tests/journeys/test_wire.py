"""The vendor's own cURL line, typed as a process, and the two error bodies that its document shows."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

import pytest
from tests.journeys.running import Server, Tenant

# As a person copies it: five words on continued lines, the token as a cookie, the body on one line.
CURL = r"""curl 'http://HOST/api/instance/create' \
  -H 'content-type: application/json' \
  -b 'AccessToken=TOKEN' \
  --data-raw '{"name":"test","imageId":"IMAGE","instanceTypeId":"TYPE","region":"REGION","billing":{"chargeMode":"CHARGE","duration":1},"remoteStorages":[],"instanceConfiguration":{"extraDataDiskSizeDB":0,"enableCommonData":false,"enableDocker":false,"dockerStorageSize":0,"initScript":""},"isSpotInstance":false,"nodePorts":[7891]}'"""  # noqa: E501
NOT_LOGGED_IN = '{"code": -1, "message": "Not logged in or login expired, please log in again"}'
MISSING = r'{"message":"field \"instanceConfiguration.enableDocker\" is not set"'


@pytest.fixture(scope="module")
def server(shared_deployment: Callable[..., Server]) -> Server:
    at_once = {"simulated_pull_seconds": 0, "simulated_start_seconds": 0, "simulated_stop_seconds": 0}
    return shared_deployment(settings={"driver": "simulated"} | at_once).start()


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


def typed(line: str, server: Server) -> tuple[int, str]:
    """What a shell makes of the line: HTTP status and body."""
    done = subprocess.run(
        ["bash", "-c", line + " --silent --show-error --noproxy '*' --write-out '\\n%{http_code}'"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def line_for(server: Server, user: Tenant, token: str, mode: str = "perHour") -> str:
    offer = user.offer()
    words = {
        "HOST": f"127.0.0.1:{server.port}",
        "TOKEN": token,
        "IMAGE": offer["imageId"],
        "TYPE": offer["instanceTypeId"],
        "REGION": offer["region"],
        "CHARGE": mode,
    }
    return re.sub("|".join(words), lambda found: words[found[0]], CURL)


@pytest.mark.parametrize("mode", ["perHour", "tidePerHour", "perWeek"])
def test_the_vendors_line_launches(server: Server, user: Tenant, mode: str) -> None:
    status, body = typed(line_for(server, user, user.token, mode), server)
    assert status == 200, body
    answer = json.loads(body)
    assert list(answer) == ["instanceId"]
    assert re.fullmatch(
        r"notebook-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer["instanceId"]
    )
    row = user.wait(answer["instanceId"], "Running")
    assert [each["port"] for each in row["instanceSpecInfo"]["nodePorts"]] == [22, 7891]
    assert row["instanceSpecInfo"]["billing"]["chargeMode"] == mode


@pytest.mark.parametrize("token", ["", "your_token_here", "e30.e30.e30"])
def test_not_logged_in_is_the_documented_body(server: Server, user: Tenant, token: str) -> None:
    status, body = typed(line_for(server, user, token), server)
    assert status == 401
    assert _compact(body) == _compact(NOT_LOGGED_IN)


def test_a_missing_field_is_the_documented_body(server: Server, user: Tenant) -> None:
    line = line_for(server, user, user.token).replace('"enableDocker":false,', "")
    status, body = typed(line, server)
    assert status == 400
    # The document's bytes, whatever stands behind them.
    assert _compact(body).startswith(_compact(MISSING))
    assert set(json.loads(body)) == {"message", "error"}


def _compact(text: str) -> str:
    """JSON text without the spaces between its parts, keys in their order, strings untouched."""
    return re.sub(r'("(?:[^"\\]|\\.)*")|\s+', lambda found: found[1] or "", text)
