"""The NVIDIA cards of this machine, as NVML names them."""

from __future__ import annotations

from typing import Any, cast

import pynvml as _pynvml

from tidemill.drivers.contract import Device

pynvml = cast("Any", _pynvml)  # comes without types


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def found() -> tuple[Device, ...]:
    """Every card with its UUID and model; empty where there is no NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Device(
                id=_text(pynvml.nvmlDeviceGetUUID(handle)),
                name=_text(pynvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ").replace(" ", "-"),
            )
            for handle in handles
        )
    finally:
        pynvml.nvmlShutdown()
