"""What pytest is given for mutation testing: a plugin that watches a room's tests, and one that runs those chosen."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

COLLECTION = ""
"""In the place of a test: what runs while tests are collected, such as the making of their parameters."""


SLACK_SEC, SLACK = 5.0, 10.0
"""A test is stopped, and its mutant killed, after so many seconds of CPU and so many times what it took without a
change: the clock on the wall would kill more on a busy machine."""

OFTEN = 300
"""Calls of a function in one test after which all its lines count as reached: watching each is slow."""


class Watch:
    """A pytest plugin: how long each test takes and which of the room's lines it runs."""

    def __init__(self, code: Path) -> None:
        self.code, self.root = f"{code}{os.sep}", len(f"{Path.cwd()}{os.sep}")
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[tuple[str, int]]] = {}
        self.calls: dict[CodeType, int] = {}

    def trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(self.code):
            return None
        code = frame.f_code
        calls = self.calls[code] = self.calls.get(code, 0) + 1
        if calls < OFTEN:
            return self.line
        if calls == OFTEN:
            self.lines.update((code.co_filename[self.root :], line) for _, _, line in code.co_lines() if line)
        return None

    def line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            self.lines.add((frame.f_code.co_filename[self.root :], frame.f_lineno))
        return self.line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection(self) -> Iterable[None]:
        self.lines = self.reached[COLLECTION] = set()
        sys.settrace(self.trace)
        yield
        sys.settrace(None)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterable[None]:
        self.calls = {}
        self.lines = self.reached[item.nodeid] = set()
        start = sum(os.times()[:4])
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        self.seconds[item.nodeid] = sum(os.times()[:4]) - start


class Chosen:
    """A pytest plugin: of what is collected these tests alone, in this order, each stopped when it hangs."""

    def __init__(self, tests: Collection[str], seconds: dict[str, float]) -> None:
        self.order = {name: i for i, name in enumerate(tests)}
        self.seconds = seconds
        self.running = self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        Path("running").write_text(nodeid)
        signal.setitimer(signal.ITIMER_PROF, SLACK_SEC + SLACK * self.seconds[nodeid])
