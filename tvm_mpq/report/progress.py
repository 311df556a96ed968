"""Progress on standard error: a bar with the time left on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tvm_mpq.report.text import one_line

logger = logging.getLogger(__name__)

PLAIN_INTERVAL_SEC = 5.0
"""Least time between two plain lines of one stage."""


OPTIMIZE_PHASES = {
    "compiling kernels": 10,
    "checking kernels": 10,
    "measuring kernels": 40,
    "calibrating": 5,
    "sensitivity": 12,
    "timing uniform networks": 3,
    "checking plans end to end": 10,
    "timing the best plan beside a uniform one": 2,
    "fine-tuning": 100,
    "verifying": 4,
    "timing what was built": 3,
    "writing the report": 1,
}
"""Stages of `optimize` in order with their parts of the time, roughly, where nothing is known yet; what is known is
passed over at once, and the time left falls. The last one ends the job, so that nothing is called done before."""

TRAINING = {"training": 25}
"""What comes before them in `demo`."""


def phases(parts: Mapping[str, float], *, without: Collection[str] = ()) -> list[tuple[str, float]]:
    """(stage, share of the time), as `WholeJob` takes them, of a job that passes through all stages but some.

    >>> phases({"a": 1, "b": 5, "c": 3}, without=["b"])
    [('a', 0.25), ('c', 0.75)]
    """
    used = {stage: part for stage, part in parts.items() if stage not in without}
    return [(stage, part / sum(used.values())) for stage, part in used.items()]


class WholeJob:
    """How far a job of several stages is. phases: (stage, share of the time) in order; stages not named do not count.

    >>> job = WholeJob((("a", 0.5), ("b", 0.5)), 100.0)
    >>> job.update("b", 1, 2), round(job.left_sec(160.0))
    (0.75, 20)
    """

    def __init__(self, phases: Sequence[tuple[str, float]], begun: float) -> None:
        self._phases, self._begun, self.share = phases, begun, 0.0

    def update(self, stage: str, done: int, total: int) -> float:
        """The share done, which never falls: stages may come again."""
        before = 0.0
        for name, share in self._phases:
            if name == stage:
                self.share = max(self.share, before + share * done / max(total, 1))
                break
            before += share
        return self.share

    def left_sec(self, now: float) -> float | None:
        """None while too little is done to tell."""
        return None if self.share < 0.02 else (now - self._begun) * (1 - self.share) / self.share

    def text(self, now: float) -> str:
        """`34 % of the job, about 5 min left`; empty where nothing is to be told."""
        if not self._phases:
            return ""
        left = self.left_sec(now)
        rest = f", about {duration(left)} left" if left is not None and left >= 1 else ""
        return f"{100 * self.share:.0f} % of the job{rest}"


class ProgressLine:
    """Shows how far long work is. Use as a context manager; nothing is ever written to standard output.

    Parameters
    ----------
    clock
        Seconds that only grow; tests give their own.
    bar
        Whether a terminal gets a bar. Without it lines that others print in between stay whole.
    phases
        Of a job whose stages are known: (stage, share of the time) in order; its whole is shown beside the stage.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        bar: bool = True,
        phases: Sequence[tuple[str, float]] = (),
    ) -> None:
        self._job = WholeJob(phases, clock())
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._clock = clock
        self._wants_bar = bar
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what: str | None = None
        self._begun = self._shown_at = 0.0
        self._first = 0
        self._last = self._shown = (0, 0)

    def __enter__(self) -> ProgressLine:
        if self._wants_bar and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[job]}", markup=False),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._end_stage()

    def update(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps of the stage `what` are done; a new `what` begins a new stage."""
        self._job.update(what, done, total)
        if self._bar:
            self._move_bar(self._bar, done, total, one_line(what))
        else:
            self._plain(done, total, one_line(what))

    def say(self, words: str) -> None:
        """One line for the user, above the bar where there is one."""
        if self._bar is None:
            self._end_stage()
        self._console.print(one_line(words), soft_wrap=True)

    def _move_bar(self, bar: Progress, done: int, total: int, what: str) -> None:
        if what != self._what or self._task is None:
            if self._task is not None:
                bar.remove_task(self._task)
            self._what = what
            self._task = bar.add_task(what, total=total, job="")
        bar.update(self._task, completed=done, total=total, job=self._job.text(self._clock()))

    def _plain(self, done: int, total: int, what: str) -> None:
        now = self._clock()
        if what != self._what:
            self._end_stage()
            self._what, self._first = what, done
            self._begun = self._shown_at = now
            self._shown = (0, 0)
        self._last = (done, total)
        if done >= total or now - self._shown_at >= PLAIN_INTERVAL_SEC:
            self._show(now)

    def _end_stage(self) -> None:
        """Show how far the stage came, unless that was the last thing shown."""
        if self._what is None:
            return
        if self._last != self._shown:
            self._show(self._clock())
        logger.debug("%s took %.3g s", self._what, self._clock() - self._begun)
        self._what = None

    def _show(self, now: float) -> None:
        done, total = self._shown = self._last
        self._shown_at = now
        steps = done - self._first
        left = (now - self._begun) / steps * (total - done) if steps > 0 else 0.0
        rest = f", about {duration(left)} left" if left >= 1 else ""
        whole = self._job.text(now)
        self._console.print(f"{self._what}: {done}/{total}{rest}{whole and f' ({whole})'}", soft_wrap=True)


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
