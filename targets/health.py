"""How well a machine is: load, clock governor, temperature, throttling, free memory; as far as it says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Read = Callable[[str], "str | None"]
"""Path -> text of the file, None when it cannot be read."""

_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_CLOCK = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
_TOP_CLOCK = "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
_ZONES = 8
_THROTTLE_COUNT = "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
_RASPBERRY = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_RASPBERRY_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "too hot"}

BUSY_SHARE = 0.5
"""Load per core above which measurements are called disturbed."""


@dataclass(frozen=True)
class Health:
    """One reading; None = the machine does not say."""

    load: float | None  # runnable threads, mean of the last minute
    governor: str | None
    clock_mhz: float | None
    top_clock_mhz: float | None
    temperature_c: float | None  # the hottest zone
    throttled: str | None  # what slows the CPU down now, in words; "" = nothing
    throttle_count: int | None  # since the machine was started (x86)
    free_memory_bytes: int | None

    def warnings(self, cores: int) -> list[str]:
        """What disturbs measurements, in words."""
        found = []
        if self.load is not None and self.load > BUSY_SHARE * cores:
            found.append(f"load {self.load:.1f} on {cores} cores")
        if self.governor == "powersave":
            found.append("governor powersave")
        if self.throttled:
            found.append(self.throttled)
        return found


def read_local(path: str) -> str | None:
    """A file of this machine."""
    try:
        return Path(os.path.realpath(path)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_health(read: Read) -> Health:
    """Ask a machine, this one or another; `read` gives a file's text, or None."""
    clock, top = _number(read(_CLOCK)), _number(read(_TOP_CLOCK))
    count = _number(read(_THROTTLE_COUNT))
    load = _number((read("/proc/loadavg") or "").split(" ")[0])
    governor = read(_GOVERNOR)
    return Health(
        load=load,
        governor=governor.strip() if governor and governor.strip() else None,
        clock_mhz=None if clock is None else clock / 1000,
        top_clock_mhz=None if top is None else top / 1000,
        temperature_c=_hottest(read),
        throttled=_throttled(read),
        throttle_count=None if count is None else int(count),
        free_memory_bytes=_free_memory(read("/proc/meminfo") or ""),
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _hottest(read: Read) -> float | None:
    found = []
    for zone in range(_ZONES):
        value = _number(read(f"/sys/class/thermal/thermal_zone{zone}/temp"))
        if value is None:
            break  # zones are numbered without gaps
        found.append(value / 1000)
    return max(found, default=None)


def _throttled(read: Read) -> str | None:
    """The Raspberry Pi says it in bits; elsewhere nothing does at once."""
    text = (read(_RASPBERRY) or "").strip()
    try:
        bits = int(text, 16)
    except ValueError:
        return None
    return ", ".join(word for bit, word in _RASPBERRY_NOW.items() if bits >> bit & 1)


def _free_memory(text: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return None
