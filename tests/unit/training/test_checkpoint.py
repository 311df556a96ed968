"""States on disk: whole or not at all, of the same training or none, and never code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from tvm_mpq.errors import OutputError
from tvm_mpq.training.checkpoint import Checkpoint

STATE = {"weights": torch.arange(3.0), "updates": 7, "rows": [["a", {"b": 1.5}]]}


def test_the_last_state_comes_back(tmp_path: Path) -> None:
    file = Checkpoint(tmp_path / "state.pt", "this")
    assert file.load() is None
    file.save({"updates": 1})
    file.save(STATE)
    found = file.load()
    assert found is not None and torch.equal(found.pop("weights"), STATE["weights"])  # type: ignore[arg-type]
    assert found == {"updates": 7, "rows": [["a", {"b": 1.5}]]}
    assert os.listdir(tmp_path) == ["state.pt"]
    assert Checkpoint(tmp_path / "state.pt", "other").load() is None


class Code:
    """What a pickle may hold: a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("damage", ["short", "shorter", "text", "list", "code"])
def test_what_is_damaged_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pt"
    Checkpoint(path, "this").save(STATE)
    whole = path.read_bytes()
    if damage == "list":
        torch.save([1, 2], path)
    elif damage == "code":
        torch.save({"identity": "this", "state": {"x": Code()}}, path)
    else:
        path.write_bytes({"short": whole[:-40], "shorter": b"", "text": b"no state at all"}[damage])
    assert Checkpoint(path, "this").load() is None
    assert not (tmp_path / "ran").exists()
    if damage == "code":
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)


def test_who_cannot_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Checkpoint(tmp_path / "state.pt", "this")
    file.save({"updates": 1})

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write checkpoint .*No space left"):
        file.save({"updates": 2})
    assert file.load() == {"updates": 1} and os.listdir(tmp_path) == ["state.pt"]
