"""The first commands as processes against a real server: log in, look, log out, and how they fail."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from tests.cli.conftest import COMMAND, Machine
from tests.journeys.running import Server, Tenant, free_port


@pytest.fixture
def at_home(machine: Machine, simulated: Server, tenant: Tenant) -> Machine:
    """The machine of somebody who is logged in."""
    done = machine.tidemill(
        "login", simulated.url, "-u", tenant.username, "--password-stdin", stdin=tenant.password + "\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"Logged in at {simulated.url} as {tenant.username}. That is good for 24h.\n"
    return machine


def test_login_look_and_logout(at_home: Machine, simulated: Server, tenant: Tenant) -> None:
    me = json.loads(at_home.answer("me", "-o", "json"))
    assert (me["username"], me["scope"]) == (tenant.username, "full")
    assert at_home.answer("whoami", "-o", "name") == f"{tenant.username}\n"
    assert at_home.answer("ls", "-o", "name") == "second\nfirst\n"
    rows = json.loads(at_home.answer("ls", "-o", "json"))
    listed = tenant.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 10}})["instances"]
    assert rows == listed
    assert yaml.safe_load(at_home.answer("ls", "-o", "yaml")) == listed
    head, second, first = at_home.answer("ls").splitlines()
    assert head.split() == ["NAME", "ID", "STATUS", "TYPE", "PRICE", "REGION", "MADE"]
    id = listed[0]["instanceMetadata"]["instanceId"].removeprefix("notebook-")[:8]
    assert second.split()[:6] == ["second", id, "Running", "small", "1.50", "EUR/h"]
    assert first.startswith("first ")
    assert at_home.answer("ls", "--status", "Stopped", "-o", "json") == "[]\n"
    assert simulated.url in at_home.answer("config", "show")
    assert at_home.tidemill("logout").stderr == f"Logged out at {simulated.url}.\n"
    gone = at_home.tidemill("ls")
    assert (gone.returncode, gone.stdout) == (3, "")
    assert gone.stderr.endswith("Log in with: tidemill login\n")


def test_a_key_is_kept_and_the_next_login_ends_it(
    at_home: Machine, simulated: Server, tenant: Tenant
) -> None:
    again = ("login", "-u", tenant.username, "--password-stdin")
    file = at_home.home / ".config" / "tidemill" / "credentials.json"
    made = at_home.tidemill(*again, "--keep", stdin=tenant.password)
    assert (made.returncode, "does not expire" in made.stderr) == (0, True)
    (kept,) = json.loads(file.read_text()).values()
    assert kept.keys() == {"url", "username", "api_key", "api_key_id"}
    assert at_home.answer("ls", "-o", "name")
    keys = tenant.post("/api/user/apikey/list")["apiKeys"]
    assert kept["api_key_id"] in {key["id"] for key in keys}
    assert at_home.tidemill(*again, stdin=tenant.password).returncode == 0
    keys = tenant.post("/api/user/apikey/list")["apiKeys"]
    assert kept["api_key_id"] not in {key["id"] for key in keys}
    assert kept["api_key"] not in file.read_text()
    assert at_home.answer("login", simulated.url, "--api-key-stdin", stdin=_key(tenant)) == ""
    assert at_home.answer("me", "-o", "name") == f"{tenant.username}\n"


def _key(tenant: Tenant) -> str:
    return str(tenant.post("/api/user/apikey/create", {"name": "by hand"})["key"])


def test_in_ci_the_environment_is_enough(machine: Machine, simulated: Server, tenant: Tenant) -> None:
    machine.environ = {"TIDEMILL_URL": simulated.url, "TIDEMILL_API_KEY": _key(tenant)}
    assert machine.answer("ls", "-o", "name") == "second\nfirst\n"
    assert not (machine.home / ".config").exists()


def test_a_password_that_is_wrong(machine: Machine, simulated: Server, tenant: Tenant) -> None:
    done = machine.tidemill("login", simulated.url, "-u", tenant.username, "--password-stdin", stdin="no\n")
    assert done.returncode == 3
    assert not (machine.home / ".config" / "tidemill" / "credentials.json").exists()
    assert machine.tidemill("login", simulated.url, "-u", "x").returncode == 2  # no terminal to type on
    assert machine.tidemill("login", simulated.url, "--password-stdin", stdin="x").returncode == 2


def test_errors_have_codes_and_say_what_to_do(machine: Machine, simulated: Server) -> None:
    none = machine.tidemill("ls")
    assert none.returncode == 3
    assert (
        none.stderr == "tidemill: No server is known. Log in with: tidemill login https://gpu.example.org\n"
    )
    machine.environ = {"TIDEMILL_URL": simulated.url, "TIDEMILL_TOKEN": "a.b.c"}
    refused = machine.tidemill("ls", "-o", "json")
    assert (refused.returncode, refused.stdout) == (3, "")
    said = json.loads(refused.stderr)
    assert (said["status"], said["exit"], said["next"]) == (401, 3, "Log in with: tidemill login")
    machine.environ = {"TIDEMILL_URL": simulated.url, "TIDEMILL_API_KEY": "k", "TIDEMILL_TOKEN": "t"}
    assert machine.tidemill("ls").returncode == 2


def test_a_shell_gets_live_names_and_never_an_error(at_home: Machine) -> None:
    assert "complete -o default" in at_home.answer("completion", "bash")
    at_home.environ = {"_TIDEMILL_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "tidemill log"}
    assert at_home.tidemill().stdout.split() == ["logs", "login", "logout"]
    at_home.environ |= {"COMP_CWORD": "3", "COMP_WORDS": "tidemill config use 1"}
    assert at_home.tidemill().stdout.split() == [at_home_name(at_home)]


def at_home_name(machine: Machine) -> str:
    return Machine(machine.home).answer("config", "list", "-o", "name").strip()


def shell(machine: Machine, line: str) -> subprocess.CompletedProcess[str]:
    """``line`` in a shell, where ``$T`` is the command."""
    given = machine.given | {"T": COMMAND[0]}
    return subprocess.run(
        ["sh", "-c", line], env=given, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$T ls <&- >/dev/null", 0),
        ("$T launch x -t small -i deb <&-", 2),
        ("$T rm first <&-", 2),
        ("$T ls >&-", 0),
        ("$T show nothing 2>&-", 4),
        ("$T ls <&- >&- 2>&-", 0),
        ("$T ls >/dev/full", 1),
        ("$T price small | true", 0),
    ],
)
def test_streams_that_are_closed_or_full_are_no_defect(at_home: Machine, line: str, code: int) -> None:
    done = shell(at_home, line)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_locale_without_our_letters_gets_marks_and_programs_get_escapes(
    at_home: Machine, tenant: Tenant
) -> None:
    named = tenant.launch(
        name="zwölf", image=tenant.post("/api/resource/image/list")["images"][0]["imageName"]
    )
    try:
        at_home.environ |= {"PYTHONIOENCODING": "ascii"}
        assert "zw?lf" in at_home.answer("ls")
        assert "zwölf" in [
            row["instanceMetadata"]["name"] for row in json.loads(at_home.answer("ls", "-o", "json"))
        ]
    finally:
        tenant.post("/api/instance/terminate", {"instanceId": named})


def test_a_server_that_is_away(machine: Machine) -> None:
    machine.environ = {"TIDEMILL_URL": f"http://127.0.0.1:{free_port()}", "TIDEMILL_TOKEN": "t"}
    done = machine.tidemill("me", "-o", "json")
    assert done.returncode == 8
    assert json.loads(done.stderr)["error"] == "notConnected"
