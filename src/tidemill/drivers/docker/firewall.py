"""A rule of our own that keeps the tenants' networks apart.

Docker's rules for that are taken out and put in again whenever a network is made or removed (libnetwork
arranges its chains by deleting and inserting the jumps to them), and for these milliseconds packets pass
from any network to any other. Nobody touches the table ``mangle``, through which they go as well.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence

import structlog

PATIENCE = "10"  # seconds that iptables waits while another program changes the rules

log = structlog.get_logger("docker")


class Firewall:
    """For the networks of one deployment in ``pool``; ``can_be_set`` where the engine is on this machine."""

    def __init__(self, deployment: str, pool: str, *, can_be_set: bool) -> None:
        # What stays inside one network goes over its bridge; the rest is routed, and dropped.
        self._rule = [
            *("FORWARD", "-s", pool, "-d", pool, "-m", "physdev", "!", "--physdev-is-bridged"),
            *("-m", "comment", "--comment", f"tidemill {deployment}", "-j", "DROP"),
        ]
        self._can_be_set = can_be_set
        self._is_told = False

    async def ensure(self) -> None:
        """Have the rule; where it cannot be set, say once that Docker's own are all there are."""
        why = self._why_not()
        if not why and await self._iptables("-C", self._rule):
            why = await self._iptables("-I", self._rule)
        if why and not self._is_told:
            self._is_told = True
            log.warning(
                "the tenants' networks are kept apart by the engine's rules alone, which leave gaps while "
                "networks are made or removed; docs/operate.md has the rule to set by hand",
                why=why,
            )

    async def remove(self) -> None:
        """Take the rule away: no network is left."""
        if not self._why_not():
            await self._iptables("-D", self._rule)

    def _why_not(self) -> str:
        if not self._can_be_set:
            return "the engine is on another machine"
        if os.geteuid() != 0:
            return "the server is not root"
        return "" if shutil.which("iptables") else "there is no iptables"

    async def _iptables(self, verb: str, rule: Sequence[str]) -> str:
        """What it complained of; "" for nothing."""
        process = await asyncio.create_subprocess_exec(
            *("iptables", "-w", PATIENCE, "-t", "mangle", verb, *rule),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        return "" if process.returncode == 0 else said.decode(errors="replace").strip() or "it failed"
