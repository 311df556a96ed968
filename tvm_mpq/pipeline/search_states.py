"""Where searches that take long keep their states: files beside the database, one for each that has not ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from tvm_mpq import scratch
from tvm_mpq.errors import OutputError
from tvm_mpq.pipeline.context import RunContext


class StateFile:
    """Implements `Memory` by one file. identity: says all that the search depends on; no other's file is taken up."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity

    def load(self) -> dict[str, Any] | None:
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(held, dict) or held.get("identity") != self._identity:
            return None
        state: dict[str, Any] = held["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Raises OutputError where it cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with scratch.replacing(self._path) as file:
                json.dump({"identity": self._identity, "state": state}, file)
        except OSError as e:
            raise OutputError(f"cannot write the search's state {str(self._path)!r}: {e.strerror}") from e

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class SearchStates:
    """Implements `Memories` by a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, search: str) -> StateFile:
        digest = hashlib.sha256(search.encode()).hexdigest()
        return StateFile(self._folder / f"{digest[:32]}.json", digest)


def states_of(context: RunContext) -> SearchStates:
    """Those of the searches of one database."""
    return SearchStates(Path(f"{context.db.store.path}.searches"))
