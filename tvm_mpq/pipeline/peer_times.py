"""What other engines took for a network on a device: `bench` measures and keeps it, reports of `optimize` show it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tvm_mpq.report.contract import PeerTime
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.results import ResultStore

KIND = "peer_times"


def keep_peer_times(db: LatencyDatabase, fingerprint: str, device: str, median_ms: Mapping[str, float]) -> None:
    """Store medians by engine, such as `openvino-int8`; they replace those of before.

    fingerprint: of the imported network. device: `DeviceIdentity.key`, which tells the threads too.
    """
    day = time.strftime("%Y-%m-%d", time.gmtime())
    found = {engine: {"latency_ms": ms, "measured": day} for engine, ms in median_ms.items()}
    before = ResultStore(db).get(KIND, _key(fingerprint, device)) or {}
    ResultStore(db).put(KIND, _key(fingerprint, device), before | found)


def peer_times(db: LatencyDatabase, fingerprint: str, device: str) -> list[PeerTime]:
    """All that is known, the fastest first."""
    found = ResultStore(db).get(KIND, _key(fingerprint, device)) or {}
    times: list[PeerTime] = [
        {"engine": engine, "latency_ms": kept["latency_ms"], "measured": kept["measured"]}
        for engine, kept in found.items()
    ]
    return sorted(times, key=lambda t: t["latency_ms"])


def _key(fingerprint: str, device: str) -> str:
    return f"{fingerprint}|{device}"
