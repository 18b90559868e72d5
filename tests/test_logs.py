"""What is said to nobody stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAYING = """
import logging, signal, structlog, sys
from tidemill import logs
signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as the server does
logs.configure(sys.argv[1])
for _ in range(3):
    structlog.get_logger("server").info("serving", text="x" * 100_000)
    logging.getLogger("other").warning("said by somebody else")
    try:
        raise ValueError
    except ValueError:
        structlog.get_logger("server").exception("failed")
print("went on")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("where", ["full disk", "closed pipe"])
def test_a_log_that_nobody_takes_stops_nothing(log_format: str, where: str) -> None:
    if where == "full disk":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, target = os.pipe()
        os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SAYING, log_format],
            stdout=subprocess.PIPE, stderr=target, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(target)
    assert done.stdout == "went on\n"
