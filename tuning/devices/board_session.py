"""A session with a board that knows which CPU it speaks to, and the address under which it is found."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.targets.board import Board
from tvm_mpq.tuning.devices.probe import Probe
from tvm_mpq.tuning.devices.session import RpcSession

SESSION_TIMEOUT_SEC = 3600
"""A board ends a session after so long; it is renewed between two tasks at half of it."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`. Raises InvalidValueError.

    >>> parse_address("board.local:9090"), parse_address("[::1]:9190")
    (('board.local', 9090), ('::1', 9190))
    """
    found = re.fullmatch(r"(?:\[([^\]\s]+)\]|([^:\s\[\]]+)):(\d{1,5})", text.strip())
    if found is None or not 0 < int(found[3]) < 65536:
        raise InvalidValueError(f"a board is given as HOST:PORT, such as 192.168.1.20:9090 (got {text!r})")
    return found[1] or found[2], int(found[3])


@dataclass
class Disconnect:
    """A board that stopped answering."""

    board: str
    reason: str
    came_back: bool = False


class BoardSession(RpcSession):
    """A session that knows which CPU it speaks to, and does not change it.

    Attributes
    ----------
    board : Board
        Facts of the CPU.
    """

    def __init__(
        self, *args: Any, expected: Board | None = None, note: Callable[[Disconnect], None], **options: Any
    ) -> None:
        self._expected, self._note = expected, note
        self._error: DeviceLostError | None = None  # of the call that found the board gone
        self._disconnect: Disconnect | None = None  # until a board is reached again
        self._lost_address: tuple[str, int] | None = None
        self.board: Board
        self.opened = 0.0
        self.lock = threading.RLock()  # of whoever brings it back
        super().__init__(*args, session_timeout_sec=SESSION_TIMEOUT_SEC, **options)

    def restart(self) -> None:
        """Connect anew, through a tracker perhaps to another board of the same CPU. Raises DeviceLostError."""
        if self._error is not None and self._disconnect is None:
            self._disconnect = Disconnect(self.describe(), str(self._error))
            self._lost_address = self.address
            self._note(self._disconnect)
        try:
            super().restart()
            self.opened = time.monotonic()
            self.board = Probe(self).board()
        except MeasurementError as e:
            name = self.describe()
            self.close()
            raise e if isinstance(e, DeviceLostError) else DeviceLostError(f"{name} is of no use: {e}") from e
        finally:
            self._error = None
        if self._expected is not None and self.board != self._expected:
            name = self.describe()
            self.close()
            raise DeviceLostError(f"{name} is another CPU ({self.board.cpu_model}) than the first board; not used")
        self._expected = self.board
        if self._disconnect is not None:
            self._disconnect.came_back = self.address == self._lost_address
            self._disconnect = None

    def guarded(self, what: str, action: Callable[[], Any], timeout_sec: float | None = None) -> Any:
        try:
            return super().guarded(what, action, timeout_sec)
        except DeviceLostError as e:
            if self._error is None:
                self._error = e
            raise

    @property
    def aged(self) -> bool:
        """The board will soon end this session by itself."""
        return time.monotonic() - self.opened > SESSION_TIMEOUT_SEC / 2
