"""Whose service it is, and what may be asked of it."""

from __future__ import annotations

from enum import Enum
from urllib.parse import urlsplit


class Service(Enum):
    """``TIDEMILL`` has the whole API; ``HPC_AI`` the part that the contract calls HPC-AI's.

    HPC-AI's does not know an ``Idempotency-Key``: a launch whose answer was lost is not sent again.
    """

    TIDEMILL = "tidemill"
    HPC_AI = "hpc-ai"

    @classmethod
    def at(cls, url: str) -> Service:
        """Which one it is, by the name of its host."""
        host = urlsplit(url).hostname or ""
        return cls.HPC_AI if host == "hpc-ai.com" or host.endswith(".hpc-ai.com") else cls.TIDEMILL
