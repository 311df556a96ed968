from __future__ import annotations

import io
import sys

import pytest

from tvm_mpq.report.progress import OPTIMIZE_PHASES, PLAIN_INTERVAL_SEC, ProgressLine, WholeJob, phases


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ProgressLine(clock) as line:
        for done in range(1, 101):
            clock.now += PLAIN_INTERVAL_SEC / 10
            line.update(done, 100, "measuring kernels")
    out, err = capsys.readouterr()
    shown = err.splitlines()
    assert out == ""
    assert 9 <= len(shown) <= 10
    assert shown[0] == "measuring kernels: 11/100, about 44 s left"  # 10 steps in 5 s, 89 to go
    assert shown[-1] == "measuring kernels: 100/100"


def test_a_quick_stage_shows_its_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(Clock()) as line:
        for done in (1, 2, 3):
            line.update(done, 3, "compiling")
        line.update(1, 8, "trying plans")  # ends early, by the next stage
        line.say("building")
        line.update(2, 5, "timing")  # ends early, by the end of all
    assert capsys.readouterr().err.splitlines() == ["compiling: 3/3", "trying plans: 1/8", "building", "timing: 2/5"]


def test_the_same_stage_again_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(Clock()) as line:
        line.update(2, 2, "measuring")
        line.say("calibrating")
        line.update(2, 2, "measuring")
    assert capsys.readouterr().err.splitlines() == ["measuring: 2/2", "calibrating", "measuring: 2/2"]


def test_unusual_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine(Clock()) as line:
        line.update(0, 0, "nothing [red]to\ndo")
        line.update(5, 3, "more than all")
    assert capsys.readouterr().err.splitlines() == ["nothing [red]to do: 0/0", "more than all: 5/3"]


@pytest.mark.parametrize(("seconds", "left"), [(10, "50 s"), (60, "5 min"), (1500, "2 h 5 min")])
def test_time_left(capsys: pytest.CaptureFixture[str], seconds: float, left: str) -> None:
    clock = Clock()
    with ProgressLine(clock) as line:
        line.update(0, 6, "work")
        clock.now += seconds
        line.update(1, 6, "work")
        assert capsys.readouterr().err == f"work: 1/6, about {left} left\n"


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressLine() as line:
        line.say("reading")
        line.update(1, 4, "measuring")
        line.update(1, 2, "building")
    shown = terminal.getvalue()
    assert "reading" in shown
    assert "building" in shown and "1/2" in shown
    assert capsys.readouterr().out == ""


def test_no_bar_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    with caplog.at_level("DEBUG", logger="tvm_mpq"), ProgressLine(clock, bar=False) as line:
        line.update(0, 1, "measuring")
        clock.now += 2.5
        line.update(1, 1, "measuring")
    assert terminal.getvalue() == "measuring: 1/1\n"
    assert caplog.messages == ["measuring took 2.5 s"]


def test_an_error_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with ProgressLine(Clock()) as line:
            line.update(1, 3, "measuring")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert capsys.readouterr().err == "measuring: 1/3\n"


def test_the_whole_job_is_shown_beside_its_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage that comes again, or that is not one of the job's, moves nothing back."""
    clock = Clock()
    with ProgressLine(clock, phases=(("measuring", 0.5), ("checking", 0.5))) as line:
        clock.now += 30
        line.update(1, 2, "measuring")
        line.update(2, 2, "measuring")
        clock.now += 90
        line.update(1, 2, "checking")
        line.update(1, 2, "measuring")
        line.update(3, 3, "else")
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 2/2 (50 % of the job, about 30 s left)",
        "checking: 1/2 (75 % of the job, about 40 s left)",
        "measuring: 1/2 (75 % of the job, about 40 s left)",
        "else: 3/3 (75 % of the job, about 40 s left)",
    ]


def test_nothing_is_done_before_the_last_stage_of_optimize() -> None:
    """Not while networks are timed once more either."""
    for without in ([], ["fine-tuning"]):
        job = WholeJob(phases(OPTIMIZE_PHASES, without=without), 0.0)
        for stage in OPTIMIZE_PHASES.keys() - {"writing the report"}:
            job.update(stage, 15, 15)
            job.update(stage, 30, 30)
        assert 0.98 < job.share < 1
        assert job.update("writing the report", 1, 1) == pytest.approx(1.0)
