"""States of searches on disk: whoever is killed in the middle goes on from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mpq_testing.walks import chain
from tvm_mpq.errors import OutputError
from tvm_mpq.pipeline.search_states import SearchStates, StateFile
from tvm_mpq.select.methods.amed import Amed
from tvm_mpq.select.methods.effort import Effort
from tvm_mpq.select.methods.search import PlanSearcher
from tvm_mpq.select.problem import Limits

PROBLEM = chain((4.0, 0.2), (1.0, 3.0), (6.0, 1.0), (2.0, 0.5))
LIMITS = Limits(latency_us=400.0)


def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    def kill(done: int, of: int, what: str) -> None:
        if done > 2500:
            os.kill(os.getpid(), signal.SIGKILL)

    heard: list[int] = []
    states = SearchStates(tmp_path / "searches")
    child = os.fork()
    if child == 0:
        PlanSearcher(Amed(), Effort(2, 4000, progress=kill, memories=states)).best(PROBLEM, LIMITS, "loss")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list((tmp_path / "searches").glob("*.json"))) == 1
    progress = lambda done, of, what: heard.append(done)  # noqa: E731
    searcher = PlanSearcher(Amed(), Effort(2, 4000, progress=progress, memories=states))
    whole = PlanSearcher(Amed(), Effort(2, 4000))
    assert searcher.best(PROBLEM, LIMITS, "loss") == whole.best(PROBLEM, LIMITS, "loss")
    assert searcher.trace == whole.trace
    assert min(heard) > 2000
    assert list((tmp_path / "searches").iterdir()) == []  # it is over


def test_only_the_state_of_the_same_search_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "state.json"
    file = StateFile(path, "one")
    assert file.load() is None
    file.save({"a": [1, None]})
    file.save({"a": [2, None]})
    assert file.load() == {"a": [2, None]} and os.listdir(path.parent) == ["state.json"]
    assert StateFile(path, "other").load() is None
    path.write_text(path.read_text()[:-5])
    assert file.load() is None
    path.write_text("[]")
    assert file.load() is None
    file.forget()
    file.forget()
    assert not path.exists()


def test_who_is_ended_while_writing_goes_on_from_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path / "state.json", "one")
    file.save({"a": 1})

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write the search's state .*No space left"):
        file.save({"a": 2})
    assert file.load() == {"a": 1} and os.listdir(tmp_path) == ["state.json"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write the search's state"):
        StateFile(tmp_path / "file" / "state.json", "one").save({})
