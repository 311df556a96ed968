"""Temporary folders go away however their process ends; those of a living one stay."""

import os
import subprocess
import sys
import tempfile

import pytest

from tvm_mpq import scratch

MAKE = """
import os, signal, sys
from pathlib import Path
from tvm_mpq import scratch
kept = scratch.folder()
Path(kept.name, "model.so").write_bytes(b"0")
print(kept.name, flush=True)
"""


def run(code, tmp_path, **named):
    return subprocess.Popen(
        [sys.executable, "-c", MAKE + code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **named,
    )


@pytest.mark.parametrize("code", ["", "sys.exit(3)", "del kept", "raise SystemExit('error: no')"])
def test_whoever_takes_leave_leaves_nothing(tmp_path, code):
    process = run(code, tmp_path, stderr=subprocess.DEVNULL)
    assert process.communicate()[0].strip().startswith(str(tmp_path / scratch.PREFIX))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["signal.raise_signal(signal.SIGKILL)", "os._exit(0)", "signal.raise_signal(15)"])
def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path, monkeypatch, end):
    living = run("sys.stdin.read()", tmp_path)
    theirs = living.stdout.readline().strip()
    run(end, tmp_path).communicate()
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, lock = scratch.claim()
    with lock:
        assert set(tmp_path.iterdir()) == {mine, next(p for p in tmp_path.iterdir() if theirs.startswith(str(p)))}
        assert os.listdir(theirs) == ["model.so"]
        living.communicate("")
        assert list(tmp_path.iterdir()) == [mine]


def test_a_fork_has_a_folder_of_its_own_and_leaves_its_parents_alone(tmp_path):
    code = """
for asks in (False, True):
    if (child := os.fork()) == 0:
        assert not asks or scratch.process_folder() != Path(kept.name).parent
        kept._finalizer.detach()  # Python's own, which asks for no process
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
print(os.listdir(kept.name), len(os.listdir(os.environ["TMPDIR"])))
"""
    assert run(code, tmp_path).communicate()[0].splitlines()[1:] == ["['model.so'] 1"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_removed_is_made_again(tmp_path):
    code = """
import shutil
shutil.rmtree(Path(kept.name).parent)
print(Path(scratch.folder().name).parent.is_dir())
"""
    assert run(code, tmp_path).communicate()[0].splitlines()[1:] == ["True"]


def test_names_that_python_makes_up_stay_apart(tmp_path, monkeypatch):
    """They may hold, and end in, the character that ours are written with."""
    names = iter(["abcdefg_", "hijklmn_", "_", "a_b", "c_b"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: names)
    claimed = [scratch.claim() for _ in range(5)]
    assert len({path for path, _ in claimed}) == 5 == len(list(tmp_path.iterdir()))
    for _, lock in claimed:
        lock.close()


def test_a_file_is_replaced_when_it_is_whole_and_on_disk(tmp_path, monkeypatch):
    path, done = tmp_path / "state", []
    path.write_text("old")
    synced, replaced = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size) or synced(number))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replaced") or replaced(*names))
    with scratch.replacing(path) as file:
        file.write("n\u00e9w")
        assert path.read_text() == "old"
    assert done == [4, "replaced"] and path.read_bytes() == b"n\xc3\xa9w"
    with scratch.replacing(path, "wb") as file:
        file.write(b"\xff")
    assert path.read_bytes() == b"\xff" and os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("failing", ["block", "fsync", "replace"])
def test_where_writing_fails_the_old_file_stays_alone(tmp_path, monkeypatch, failing):
    path = tmp_path / "state"
    path.write_text("old")

    def full(*given):
        raise OSError(28, "No space left on device")

    def write():
        with scratch.replacing(path) as file:
            file.write("new")
            if failing == "block":
                full()

    if failing != "block":
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        write()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["state"]
