"""What answers behind an address: boards with their identity and health; without an address, this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import cast

from tvm_mpq import targets
from tvm_mpq.errors import DeviceLostError
from tvm_mpq.report.contract import Reading
from tvm_mpq.report.inventory import Device, DevicesReport, SilentDevice
from tvm_mpq.targets import health
from tvm_mpq.targets.board import Board, fitting
from tvm_mpq.tuning.devices import boards
from tvm_mpq.tuning.devices import session as sessions
from tvm_mpq.tuning.devices.board_session import parse_address
from tvm_mpq.tuning.devices.probe import Probe, measured_ms
from tvm_mpq.tuning.devices.session import RpcSession
from tvm_mpq.tuning.devices.tracker import NotATrackerError, Tracker

ANSWER_SEC = 10.0
"""For a board to answer a question about itself; measuring has more patience."""


def devices(rpc: str | None, key: str | None = None, *, threads: int = 1) -> DevicesReport:
    """Every device that answers.

    Parameters
    ----------
    rpc : `HOST:PORT` of a server, or with `key` of a tracker; None = this machine.

    Returns
    -------
    DevicesReport
        silent: boards of the tracker that did not answer.

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
        with RpcSession(host, port, key, threads=threads, timeout_sec=ANSWER_SEC) as device:
            return {"devices": [_describe(device)], "silent": [], "tracker": None}
    registered, free = counts
    found: list[Device] = []
    silent: list[SilentDevice] = []
    with contextlib.ExitStack() as open_ones:  # each is held until all are known, lest the tracker give it again
        for _ in range(min(free, boards.MOST_BOARDS)):
            try:
                device = open_ones.enter_context(
                    RpcSession(host, port, key, threads=threads, tracker=True, timeout_sec=ANSWER_SEC)
                )
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


def _describe(device: RpcSession) -> Device:
    probe = Probe(device)
    board, state = probe.board(), probe.health()
    delay = measured_ms(lambda: device.guarded("an empty call", device.device.sync), time.perf_counter)
    return _device(f"{device.address[0]}:{device.address[1]}", board, state, delay)


def _this_machine() -> Device:
    row = targets.local_row()
    identity = targets.device_identity(row, 1)
    board = Board(
        targets.local_architecture(), identity.cpu_model, identity.core_type, identity.isa_features, identity.cores
    )
    return _device("this machine", board, health.read_health(health.read_local), 0.0)


def _device(address: str, board: Board, state: health.Health, round_trip_ms: float) -> Device:
    return {
        "address": address,
        "architecture": board.architecture,
        "cpu_model": board.cpu_model,
        "core_type": board.core_type,
        "isa_features": list(board.isa_features),
        "cores": board.cores,
        "emulated": board.emulated,
        "targets": fitting(board),
        "health": cast(Reading, dataclasses.asdict(state)),
        "warnings": state.warnings(board.cores),
        "round_trip_ms": round_trip_ms,
    }
