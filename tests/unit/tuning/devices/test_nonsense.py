"""A board whose answers make no sense ends with one plain error, whatever TVM takes them for."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.errors import DeviceLostError, InvalidValueError, MeasurementError
from tvm_mpq.tuning.devices.session import RpcSession

ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, ArithmeticError, AssertionError)


def dialled(monkeypatch: pytest.MonkeyPatch, answer: Any) -> RpcSession:
    """A session where connecting gives `answer`, or raises it."""

    def dial(self: RpcSession, match: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return object(), answer

    monkeypatch.setattr(RpcSession, "_dial", dial)
    return RpcSession("127.0.0.1", 9, threads=2)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_any_type_while_connecting(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    with pytest.raises(DeviceLostError, match=r"cannot connect to the device at 127.0.0.1:9: .*made up"):
        dialled(monkeypatch, kind("made up"))


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_any_type_in_a_call(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def action() -> None:
        raise kind("made up")

    with pytest.raises(MeasurementError, match=r"a call failed: .*made up"):
        dialled(monkeypatch, 2).guarded("a call", action)


@pytest.mark.parametrize("threads", [None, "2", 0, -1, 3, 255])
def test_threads_that_no_board_can_offer(monkeypatch: pytest.MonkeyPatch, threads: object) -> None:
    with pytest.raises(DeviceLostError, match=r"make no sense: .* threads"):
        dialled(monkeypatch, threads)


def test_too_few_threads_are_the_user_s_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValueError, match="at most 1 threads"):
        dialled(monkeypatch, 1)
