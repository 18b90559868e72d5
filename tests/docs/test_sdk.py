"""The examples of docs/sdk.md, run from top to bottom against a real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.running import Server

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/sdk.md").read_text(), re.S)


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES) == 7
    server = Server(
        tmp_path / "server",
        settings={
            "driver": "simulated",
            "simulated_pull_seconds": 0.1,
            "simulated_start_seconds": 0.1,
            "node_ports": "1025-65535",
        },
        tables={"image": [{"name": "Debian 12", "reference": "tidemill/debian:12"}]},
    )
    try:
        user = server.start().first_login()
        key = user.post("/api/user/apikey/create", {"name": "examples"})["key"]
        monkeypatch.setenv("TIDEMILL_URL", server.url)
        monkeypatch.setenv("TIDEMILL_API_KEY", key)
        monkeypatch.delenv("TIDEMILL_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        for example in EXAMPLES:
            exec(compile(example, "docs/sdk.md", "exec"), names)
    finally:
        server.close()
    said = capsys.readouterr().out
    assert re.search(r"^ssh -p \d+ root@", said, re.M)
    assert "Running\n" in said
    assert "1.5 EUR per hour; 1.5 is set aside" in said
    assert "Starting -> Running" in said
    assert "There is no type 'enormous'; there is: small" in said
    assert (tmp_path / "statement.csv").read_text().startswith("at,kind,")
