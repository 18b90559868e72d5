"""What a container printed, out of the engine's frames of stdout and stderr."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import aiohttp

_HEADER = struct.Struct(">BxxxL")
CHUNK = 64 * 1024


async def frames(body: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The contents of the engine's frames in order, in chunks of at most ``CHUNK`` bytes."""
    while True:
        try:
            _, left = _HEADER.unpack(await body.readexactly(_HEADER.size))
        except asyncio.IncompleteReadError:
            return
        while left and (chunk := await body.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk
