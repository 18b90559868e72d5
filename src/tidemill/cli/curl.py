"""The cURL call that does what a launch would do, to be copied into a shell."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.cli.access import Access

PATH = "/api/instance/create"


def curl(access: Access, body: dict[str, Any]) -> str:
    """The token or key is a variable of the shell that runs it."""
    by_token = access.token is not None
    proof = "Authorization: Bearer $TIDEMILL_TOKEN" if by_token else "X-API-Key: $TIDEMILL_API_KEY"
    words = (
        f"curl {shlex.quote(access.server.url + PATH)}",
        "-H 'content-type: application/json'",
        f'-H "{proof}"',
        f"--data-raw {shlex.quote(json.dumps(body, ensure_ascii=False, separators=(',', ':')))}",
    )
    return " \\\n  ".join(words)
