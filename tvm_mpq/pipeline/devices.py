"""What answers behind an address: boards with their identity and health; without an address, this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from tvm_mpq import targets
from tvm_mpq.errors import DeviceLostError
from tvm_mpq.targets import health
from tvm_mpq.targets.board import Board, fitting
from tvm_mpq.tuning.devices import boards
from tvm_mpq.tuning.devices import session as sessions
from tvm_mpq.tuning.devices.board_session import parse_address
from tvm_mpq.tuning.devices.probe import Probe, measured_ms
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.devices.tracker import NotATrackerError, Tracker


def devices(rpc: str | None, key: str | None = None, *, threads: int = 1) -> dict[str, Any]:
    """Every device that answers.

    Parameters
    ----------
    rpc : `HOST:PORT` of a server, or with `key` of a tracker; None = this machine.

    Returns
    -------
    dict
        devices: list of address, architecture, cpu_model, core_type, isa_features, cores, emulated, targets (rows it
        can run, its own first), health, warnings, round_trip_ms; silent: addresses that did not answer, with the
        reason; tracker: boards registered and free under the key, None without one.

    Raises
    ------
    InvalidValueError
        If the address is none.
    DeviceLostError
        If nothing answers.
    """
    if rpc is None:
        return {"devices": [_this_machine()], "silent": [], "tracker": None}
    host, port = parse_address(rpc)
    counts = _tracker(host, port, key)
    if counts is None:
        with RpcSession(host, port, key, threads=threads) as device:
            return {"devices": [_describe(device)], "silent": [], "tracker": None}
    registered, free = counts
    found: list[dict[str, Any]] = []
    silent: list[dict[str, str]] = []
    with contextlib.ExitStack() as open_ones:  # each is held until all are known, lest the tracker give it again
        for _ in range(min(free, boards.MOST_BOARDS)):
            try:
                device = open_ones.enter_context(RpcSession(host, port, key, threads=threads, tracker=True))
                found.append(_describe(device))
            except DeviceLostError as e:
                silent.append({"reason": str(e)})
    if not found:
        reason = f": {silent[0]['reason']}" if silent else f" ({registered} registered, {free} free)"
        raise DeviceLostError(f"no board of key {key!r} answers through the tracker at {host}:{port}{reason}")
    return {"devices": found, "silent": silent, "tracker": {"key": key, "registered": registered, "free": free}}


def _tracker(host: str, port: int, key: str | None) -> tuple[int, int] | None:
    """Boards registered and free, None where no tracker is."""
    if key is None:
        return None
    try:
        with Tracker(host, port, sessions.CONNECT_TIMEOUT_SEC) as tracker:
            return tracker.boards(key)
    except NotATrackerError:
        return None


def _describe(device: RpcSession) -> dict[str, Any]:
    probe = Probe(device)
    row = _row(probe.board(), probe.health())
    delay = measured_ms(lambda: device.guarded("an empty call", device.device.sync), time.perf_counter)
    return {"address": f"{device.address[0]}:{device.address[1]}", **row, "round_trip_ms": delay}


def _this_machine() -> dict[str, Any]:
    row = targets.local_row()
    identity = targets.device_identity(row, 1)
    board = Board(
        targets.local_architecture(), identity.cpu_model, identity.core_type, identity.isa_features, identity.cores
    )
    return {"address": "this machine", **_row(board, health.read_health(health.read_local)), "round_trip_ms": 0.0}


def _row(board: Board, state: health.Health) -> dict[str, Any]:
    return {
        **dataclasses.asdict(board),
        "targets": fitting(board),
        "health": dataclasses.asdict(state),
        "warnings": state.warnings(board.cores),
    }
