"""The last part of scripts/up: a first instance through the API, and what to type to use it.

Everything here goes over HTTP as any client's calls do. What must be remembered between two runs
(the ssh identity, the token, the launch that was sent) is kept in ``first/`` of the data folder,
readable by its owner only. The steps go to standard error, the result to standard output.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tidemill.client import Client, ClientError, errors
from tidemill.client.orders import Offer, default_mode, offers
from tidemill.wire.instances import InstanceRow

NAME = "first"
SETTLED = {"Stopped", "StartingFailed", "InitializationFailed", "Archived"}
FRESH_SECONDS = 3600  # a token with less than this left is not printed again


class Failed(Exception):
    """Something went wrong; the words are for the person at the terminal."""


class Memory:
    """Small private files in ``first/`` of the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "first"
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text("utf-8") if path.exists() else ""

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        if self.read(name) == text:
            return
        new = path.with_name(f"{name}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)

    def forget(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


def main() -> int:
    args = arguments()
    memory = Memory(args.data_dir)
    console = Console(stderr=True, highlight=False)
    try:
        logins = first_logins(args.data_dir)
        token = sign_in(args.api, memory, logins)
        with Client(args.api, token=token) as cloud:
            there = offers(cloud.catalogue.stock())
            url = args.url or public_url(args.api, there)
            ssh = ""
            if args.instance:
                identity = ensure_key(cloud, memory)
                row = ensure_running(cloud, memory, there, console, args.wait)
                ssh = ssh_line(row, identity, memory)
    except (Failed, ClientError) as error:
        console.print(f"{error}", style="red", markup=False, soft_wrap=True)
        console.print(f"The server's log: {args.data_dir / 'server.log'}", markup=False, soft_wrap=True)
        return 1
    print(result(url, logins, token, ssh, args.data_dir))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", required=True, help="where the server answers from here")
    parser.add_argument("--url", default="", help="how users reach it; default: by the region's address")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--no-instance", dest="instance", action="store_false")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for Running")
    return parser.parse_args()


def first_logins(data_dir: Path) -> list[dict[str, Any]]:
    """The accounts that ``tidemill init`` made: username, password, is_admin."""
    path = data_dir / "first-login.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failed(f"{path}: {error}; without it the first user's password is not known") from None


def first_user(logins: list[dict[str, Any]]) -> dict[str, Any]:
    """The first account that is no administrator."""
    return next(login for login in logins if not login["is_admin"])


def sign_in(url: str, memory: Memory, logins: list[dict[str, Any]]) -> str:
    """The first user's token: that of the last run while it is good for a while, else a new one."""
    token = memory.read("token")
    if token and seconds_left(token) > FRESH_SECONDS:
        with Client(url, token=token) as cloud:
            try:
                cloud.account.me()
            except errors.NotLoggedIn:
                pass  # signed out, or another database: a new one is asked for
            else:
                return token
    user = first_user(logins)
    with Client(url) as cloud:
        try:
            token = cloud.account.login(user["username"], user["password"]).accessToken
        except errors.NotLoggedIn:
            raise Failed(
                "The first user's password is no longer the one in first-login.json of "
                f"{memory.folder.parent}. The server runs; sign in with the new one."
            ) from None
    memory.write("token", token)
    return token


def seconds_left(token: str) -> float:
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"] - time.time()


def ensure_key(cloud: Client, memory: Memory) -> Path | None:
    """The identity that opens the instance, made and registered when the account has no key.

    None when the account has keys of its own and not this one.
    """
    identity = memory.folder / "id_ed25519"
    public = identity.with_suffix(".pub")
    keys = cloud.account.ssh_keys()
    if not keys:
        if not identity.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tidemill-first", "-f", identity],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        cloud.account.add_ssh_key(public.read_text("utf-8").strip(), name="scripts/up")
        return identity
    if not public.exists():
        return None
    own = public.read_text("utf-8").split()[1]
    return identity if any(own in key.publicKey.split() for key in keys) else None


def ensure_running(
    cloud: Client, memory: Memory, there: list[Offer], console: Console, seconds: float
) -> InstanceRow:
    """The first instance's row, once it is Running: launched, or started again, when it is not."""
    began = time.monotonic()
    started, shown = False, ""
    columns = (TextColumn("{task.description}"), SpinnerColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("First instance", total=None)
        while True:
            row = remembered(cloud, memory)
            if row is None:
                launch(cloud, memory, there)
                started = True
                continue
            runtime = row.instanceRuntimeInfo
            status, why = runtime.status, runtime.diagnosisMessage
            if status == "Running":
                break
            if status in SETTLED and started:
                raise Failed(f"The first instance is {status}: {why or 'no reason was given'}")
            if status in SETTLED:
                cloud.instances.start(row.instanceMetadata.instanceId)
                started = True
                continue
            if time.monotonic() - began > seconds:
                raise Failed(f"The first instance is still {status} after {seconds:.0f} seconds. {why}")
            words = f"{'First instance':<20} {status} {why}".rstrip()
            progress.update(task, description=words)
            if words != shown and not console.is_terminal:
                console.print(words, markup=False, soft_wrap=True)
            shown = words
            time.sleep(0.25)
    took = time.monotonic() - began
    console.print(
        f"{'First instance':<20} Running, {row.instanceMetadata.instanceId} ({took:.0f} s)",
        markup=False,
        soft_wrap=True,
    )
    return row


def remembered(cloud: Client, memory: Memory) -> InstanceRow | None:
    """The row of the instance that an earlier run launched; None when there is none (any more)."""
    kept = json.loads(memory.read("launch") or "{}")
    if not kept.get("id"):
        return None
    try:
        row = cloud.instances.get(kept["id"])
    except errors.NotFound:
        row = None
    if row is None or row.instanceRuntimeInfo.status == "Released":
        memory.forget("launch")
        return None
    return row


def launch(cloud: Client, memory: Memory, there: list[Offer]) -> None:
    """Send a launch that is written down first, so that a run that was cut off repeats the same."""
    kept: dict[str, Any] = json.loads(memory.read("launch") or "{}")
    if not kept:
        kept = {"key": str(uuid.uuid4()), "body": order(cloud, there)}
        memory.write("launch", json.dumps(kept))
    try:
        kept["id"] = cloud.instances.create(kept["body"], idempotency_key=kept["key"])
    except errors.Refused:
        memory.forget("launch")
        raise
    memory.write("launch", json.dumps(kept))


def order(cloud: Client, there: list[Offer]) -> dict[str, Any]:
    """The smallest type in stock, without an accelerator where there is one, with the first image."""
    found = [offer for offer in there if offer.in_stock and not offer.is_spot]
    if not found:
        raise Failed("Nothing is in stock: the machine is full, or its engine does not answer.")
    chosen = min(found, key=lambda offer: (bool(offer.gpu_name), offer.type.memoryGB, offer.type.cpu))
    return {
        "name": NAME,
        "imageId": cloud.catalogue.images()[0].imageId,
        "instanceTypeId": chosen.type.instanceTypeId,
        "region": chosen.region.regionId,
        "billing": {"chargeMode": default_mode(chosen), "duration": 1},
        "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": 0,
            "enableCommonData": False,
            "enableDocker": False,
            "dockerStorageSize": 0,
            "initScript": "",
        },
        "nodePorts": [],
    }


def ssh_line(row: InstanceRow, identity: Path | None, memory: Memory) -> str:
    """The line that enters the instance; its host key is put where the line looks for it."""
    address = row.instanceSpecInfo.regionInfo.sshAddress
    port = next(each.nodePort for each in row.instanceSpecInfo.nodePorts if each.port == 22)
    memory.write("known_hosts", f"[{address}]:{port} {row.instanceRuntimeInfo.sshHostKey}\n")
    words = ["ssh", "-p", str(port), "-o", f"UserKnownHostsFile={memory.folder / 'known_hosts'}"]
    if identity:
        words += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    return shlex.join([*words, f"{row.instanceMetadata.instanceUsername}@{address}"])


def public_url(api: str, there: list[Offer]) -> str:
    """Where users reach the API: at the address of the first region, when it listens on all."""
    parts = urlsplit(api)
    if parts.hostname != "127.0.0.1" or not there:
        return api
    address = there[0].region.sshAddress
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()


def result(url: str, logins: list[dict[str, Any]], token: str, ssh: str, data_dir: Path) -> str:
    """What is printed at the end, the same at every run while token and instance live."""
    lines = ["", f"tidemill is up at {url}", ""]
    lines += [
        f"  user {login['username']:<8} password {login['password']}"
        for login in sorted(logins, key=lambda login: login["is_admin"])
    ]
    lines += ["", "List your instances:", ""]
    lines += [
        f"curl '{url}/api/instance/list' \\",
        "  -H 'content-type: application/json' \\",
        f"  -b 'AccessToken={token}' \\",
        """  --data-raw '{"pager":{"currentPage":1,"pageSize":10}}'""",
    ]
    if ssh:
        lines += ["", "Enter the first one:", "", ssh]
    user = first_user(logins)["username"]
    command = shlex.join([str(Path(sys.prefix) / "bin" / "tidemill"), "login", url, "--user", user])
    lines += ["", "Or do all of it by the command, here or from elsewhere (docs/cli.md):", "", command]
    lines += [
        "",
        f"All of it is kept in {data_dir}. To end the server: scripts/up --stop --data-dir {data_dir}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
