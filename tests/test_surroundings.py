"""Which server a program asks that was told none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill import surroundings
from tidemill.client import Client, ClientError
from tidemill.surroundings import Told, by_environment, by_instance


def test_by_environment() -> None:
    assert by_environment({}) is None
    assert by_environment({"TIDEMILL_API_KEY": "tm_a"}) is None
    assert by_environment({"TIDEMILL_URL": "http://x", "TIDEMILL_API_KEY": ""}) == Told("http://x")
    assert by_environment({"TIDEMILL_URL": "http://x", "TIDEMILL_TOKEN": "t"}) == Told("http://x", None, "t")


def test_by_instance(tmp_path: Path) -> None:
    file = tmp_path / "api"
    assert by_instance(file) is None
    file.write_text("TIDEMILL_URL=http://x:1\nTIDEMILL_API_KEY=tm_a=\nTIDEMILL_INSTANCE=notebook-1\n")
    assert by_instance(file) == Told("http://x:1", "tm_a=", None, "notebook-1")
    for text in ("TIDEMILL_URL=http://x", "nothing\n", "\xff"):
        file.write_bytes(text.encode("latin-1"))
        assert by_instance(file) is None


def test_a_client_goes_by_them_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(surroundings, "INSTANCE_FILE", tmp_path / "api")
    for name in ("TIDEMILL_URL", "TIDEMILL_API_KEY", "TIDEMILL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClientError, match="set TIDEMILL_URL"):
        Client()
    with pytest.raises(ClientError, match="say its url as well"):
        Client(api_key="tm_a")
    monkeypatch.setenv("TIDEMILL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TIDEMILL_API_KEY", "tm_a")
    Client().close()
    monkeypatch.setenv("TIDEMILL_TOKEN", "both")
    with pytest.raises(ClientError, match="not both"):
        Client()
