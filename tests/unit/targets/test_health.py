from __future__ import annotations

import dataclasses

from tvm_mpq.targets.health import read_health, read_local

PI = {
    "/proc/loadavg": "3.10 0.20 0.10 1/200 999\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000\n",
    "/sys/class/thermal/thermal_zone0/temp": "51000\n",
    "/sys/class/thermal/thermal_zone1/temp": "82500\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "/proc/meminfo": "MemTotal:  4000000 kB\nMemAvailable:  1000 kB\n",
}


def test_a_board_that_says_everything() -> None:
    found = read_health(PI.get)
    assert (found.load, found.governor, found.clock_mhz, found.top_clock_mhz) == (3.1, "powersave", 600, 1500)
    assert (found.temperature_c, found.throttled) == (82.5, "under-voltage, throttled")
    assert found.free_memory_bytes == 1024_000
    assert found.warnings(4) == ["load 3.1 on 4 cores", "governor powersave", "under-voltage, throttled"]
    assert found.warnings(8) == ["governor powersave", "under-voltage, throttled"]


def test_a_board_that_says_nothing() -> None:
    found = read_health(lambda path: None)
    assert set(dataclasses.asdict(found).values()) == {None}
    assert found.warnings(1) == []


def test_nonsense_is_no_answer() -> None:
    found = read_health(lambda path: "\0\0\n")
    assert (found.load, found.temperature_c, found.throttled, found.free_memory_bytes) == (None, None, None, None)
    calm = read_health({**PI, "/sys/devices/platform/soc/soc:firmware/get_throttled": "0\n"}.get)
    assert calm.throttled == ""


def test_this_machine() -> None:
    assert read_local("/no/such/file") is None
    assert read_health(read_local).load is not None or read_local("/proc/loadavg") is None
