"""The client's side of TVM's RPC tracker, with a deadline on every step.

TVM's own client waits for ever, and for a minute where nobody listens.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from types import TracebackType
from typing import Any

from tvm.rpc import base

from tvm_mpq.errors import DeviceLostError

MOST_BYTES = 1 << 20
"""Of one answer; TVM's tracker has the same limit."""


class NotATrackerError(DeviceLostError):
    """Something listens there, but it does not speak as a tracker does."""


class Tracker:
    """One connection to a tracker; use as a context manager.

    Raises
    ------
    DeviceLostError
        Nobody answers in time.
    NotATrackerError
        Somebody else answers.
    """

    def __init__(self, host: str, port: int, timeout_sec: float) -> None:
        self._name = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout_sec)
        except OSError as e:
            reason = f"no answer within {timeout_sec:g} s" if isinstance(e, TimeoutError) else e.strerror or str(e)
            raise DeviceLostError(f"cannot connect to a tracker at {self._name}: {reason}") from e
        self._socket.settimeout(timeout_sec)
        try:
            self._socket.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            (magic,) = struct.unpack("<i", base.recvall(self._socket, 4))
        except TimeoutError as e:
            self.close()
            raise DeviceLostError(f"{self._name} accepts, but gave no answer within {timeout_sec:g} s") from e
        except OSError:
            magic = None
        if magic != base.RPC_TRACKER_MAGIC:
            self.close()
            raise NotATrackerError(f"what listens at {self._name} is not a TVM RPC tracker")

    def request(self, key: str, wait_sec: float) -> tuple[str, int, str]:
        """Host, port and match key of a free board. Raises DeviceLostError when none becomes free in time."""
        try:
            status, value = self._ask([base.TrackerCode.REQUEST, key, "", 1], wait_sec)
            host, port, match = value
        except TimeoutError as e:
            raise DeviceLostError(f"no board of key {key!r} became free at {self._name} within {wait_sec:g} s") from e
        except (TypeError, ValueError) as e:
            raise DeviceLostError(f"the tracker at {self._name} gave an answer that makes no sense: {e}") from e
        if status != base.TrackerCode.SUCCESS:
            raise DeviceLostError(f"the tracker at {self._name} refuses to give a board of key {key!r}")
        return str(host), int(port), str(match)

    def boards(self, key: str) -> tuple[int, int]:
        """How many boards of this key are registered, and how many of them are free."""
        try:
            _, summary = self._ask([base.TrackerCode.SUMMARY], None)
            registered = sum(1 for row in summary["server_info"] if row.get("key") == f"server:{key}")
            return registered, int(summary["queue_info"].get(key, {}).get("free", 0))
        except (TimeoutError, TypeError, ValueError, KeyError, AttributeError) as e:
            raise DeviceLostError(f"the tracker at {self._name} gave no sensible answer") from e

    def _ask(self, message: list[Any], wait_sec: float | None) -> Any:
        if wait_sec is not None:
            self._socket.settimeout(wait_sec)
        text = json.dumps(message).encode()
        try:
            self._socket.sendall(struct.pack("<i", len(text)) + text)
            (size,) = struct.unpack("<i", base.recvall(self._socket, 4))
            if not 0 < size <= MOST_BYTES:
                raise ValueError(f"an answer of {size} bytes")
            return json.loads(base.recvall(self._socket, size))
        except TimeoutError:
            raise
        except OSError as e:
            raise DeviceLostError(f"the tracker at {self._name} closed the connection") from e

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
