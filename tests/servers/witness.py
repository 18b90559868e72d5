"""``tidemill`` with a simulated driver that takes its time and writes every call down: began, ended.

python -m tests.servers.witness DIARY serve ...
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tidemill.drivers.contract import Workload
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.root import app

SLOWEST = 0.3  # seconds


def watched(diary: int, name: str) -> Callable[..., Awaitable[Any]]:
    real = getattr(SimulatedDriver, name)
    numbers = itertools.count()

    async def call(self: SimulatedDriver, what: Workload | str) -> Any:
        id, number = (what.id if isinstance(what, Workload) else what), next(numbers)

        def note(happened: str) -> None:
            line: list[Any] = [os.getpid(), f"{name} {number}", happened, name, id, time.monotonic()]
            os.write(diary, (json.dumps(line) + "\n").encode())

        note("begin")
        try:
            await asyncio.sleep(random.uniform(0, SLOWEST))
            return await real(self, what)
        finally:
            note("end")

    return call


def main() -> None:
    diary = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for name in ("ensure_running", "ensure_stopped", "ensure_absent"):
        setattr(SimulatedDriver, name, watched(diary, name))
    app(args=sys.argv[2:])


if __name__ == "__main__":
    main()
