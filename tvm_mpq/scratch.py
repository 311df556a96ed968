"""Temporary folders that go away with their process, however it ends, and files that are replaced as a whole.

All of a process stand in one folder of its own, which is locked while the process lives and removed when Python ends.
What a process left that was killed, or ended without Python's farewell, is removed by the next one that needs a folder.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PREFIX = "tvm_mpq_run_"
UNLOCKED = "tvm_mpq_new_"
LOCK = "lock"

_own: tuple[int, Path, IO[str]] | None = None
"""Process id, folder and lock; of another process after a fork."""


def folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder, gone with the object that is returned, or with this process."""
    return tempfile.TemporaryDirectory(dir=process_folder())


def process_folder() -> Path:
    """The one of this process, made when it is first asked for. Raises OSError where none can be made."""
    global _own
    if _own is None or _own[0] != os.getpid() or not _own[1].exists():
        path, lock = claim()
        _own = os.getpid(), path, lock
    return _own[1]


def claim() -> tuple[Path, IO[str]]:
    """A new locked folder, and its lock; folders of processes that are gone are removed first.

    Whoever claims it removes it. The lock is held until the file is closed here and in all that were forked from here.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(old / LOCK, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=UNLOCKED))
    held = open(new / LOCK, "w")  # noqa: SIM115  handed to the caller
    fcntl.flock(held, fcntl.LOCK_EX)
    path = new.with_name(f"{PREFIX}{new.name.removeprefix(UNLOCKED)}")
    new.rename(path)  # only now may others look whether it is locked
    return path, held


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A new file, which takes the place of `path` once it is whole and on disk; if that fails, the old one stays.

    mode: "w" (UTF-8) or "wb". Raises OSError where it cannot be written.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(new, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the new name without what it names
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


@atexit.register
def _remove() -> None:
    """Not what the process has that this one was forked from."""
    if _own is not None and _own[0] == os.getpid():
        shutil.rmtree(_own[1], ignore_errors=True)
