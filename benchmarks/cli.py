"""What a command costs before it does anything, and `ls`, against `python -c pass`.

    uv run python benchmarks/cli.py [--rounds 5]

In each round every command's `--help` is run once, and `ls` against a local server whose engine is
simulated, with `python -c pass` before each; the ratio is that of the two medians. `wall` is what somebody
waits, `cpu` is user and system time together, which tells more on a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.cli.lazy import loaded
from tidemill.commands import COMMANDS

HERE = Path(__file__).parent
TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
INSTANCES = 20
DEADLINE = 60.0
TYPE = '[[type]]\nname = "small"\ncpu = 0.01\nmemoryGB = 0.02\nperHour = 1.5\n'


def commands() -> Iterator[list[str]]:
    """Every command there is, with the verbs of nouns."""
    yield []
    for row in COMMANDS:
        yield [row.name]
        for verb in getattr(loaded(row), "verbs", ()):
            yield [row.name, verb]


def measured(words: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@contextmanager
def server(folder: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """A server with instances that run, and the environment of somebody who is logged in there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    quick = "".join(f"simulated_{what}_seconds = 0.01\n" for what in ("pull", "start", "stop"))
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "tidemill.toml").write_text(f'driver = "simulated"\n{quick}{TYPE}')
    here = ["--data-dir", str(data)]
    quiet: dict[str, Any] = {"env": environ, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([TIDEMILL, "init", *here], check=True, **quiet)
    subprocess.run([TIDEMILL, "credit", "user", "100000", *here], check=True, **quiet)
    first = next(
        each for each in json.loads((data / "first-login.json").read_text()) if each["username"] == "user"
    )
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [TIDEMILL, "serve", "--host", "127.0.0.1", "--port", str(port), *here], **quiet
    )
    try:
        yield {"TIDEMILL_URL": url, "TIDEMILL_TOKEN": stocked(url, first["username"], first["password"])}
    finally:
        process.terminate()
        process.wait()


def stocked(url: str, username: str, password: str) -> str:
    """The token of somebody who has instances, once there is a server."""
    from tidemill.client import Client, ClientError

    ends = time.monotonic() + DEADLINE
    with Client(url) as client:
        while True:
            try:
                token = client.account.login(username, password).accessToken
                break
            except ClientError:
                if time.monotonic() > ends:
                    raise
        image = client.catalogue.images()[0].imageName
        for number in range(INSTANCES):
            client.instances.launch(f"bench-{number}", "small", image)
    return token


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        bare |= {"TIDEMILL_HOME": f"{folder}/home"}
        bare.pop("PYTHONDONTWRITEBYTECODE", None)
        with server(Path(folder), bare) as logged_in:
            cases = {
                " ".join([*words, "--help"]): ([TIDEMILL, *words, "--help"], bare) for words in commands()
            }
            cases["ls"] = ([TIDEMILL, "ls"], bare | logged_in)
            nothing = [sys.executable, "-c", "pass"]
            taken: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
            passed: list[tuple[float, float]] = []
            for words, environ in cases.values():  # once for the disk's cache and for bytecode
                measured(words, environ)
            for _ in range(rounds):
                for case, (words, environ) in cases.items():
                    passed.append(measured(nothing, bare))
                    taken[case].append(measured(words, environ))
    result = report(passed, taken, rounds)
    (HERE / "results" / "cli.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def report(
    passed: list[tuple[float, float]], taken: dict[str, list[tuple[float, float]]], rounds: int
) -> dict[str, Any]:
    """Milliseconds, and how many times `python -c pass` that is, by medians."""

    def medians(times: list[tuple[float, float]]) -> tuple[float, float]:
        return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)

    wall_of_pass, cpu_of_pass = medians(passed)
    rows = {}
    for case, times in taken.items():
        wall, cpu = medians(times)
        rows[case] = {
            "wall_ms": round(wall * 1000),
            "cpu_ms": round(cpu * 1000),
            "wall_ratio": round(wall / wall_of_pass, 1),
            "cpu_ratio": round(cpu / cpu_of_pass, 1),
        }
    helps = {case: row for case, row in rows.items() if case.endswith("--help")}
    return {
        "python": platform.python_version(),
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "processors": os.cpu_count(),
        "instances": INSTANCES,
        "pass": {"wall_ms": round(wall_of_pass * 1000), "cpu_ms": round(cpu_of_pass * 1000)},
        "slowest help": max(helps, key=lambda case: helps[case]["cpu_ms"]),
        "commands": rows,
    }


if __name__ == "__main__":
    main()
