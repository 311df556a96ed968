"""The state of a training on disk: replaced as a whole, and taken up again only by the same training."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from tvm_mpq import scratch
from tvm_mpq.errors import OutputError


class Checkpoint:
    """One file. identity: of everything that the training's result depends on; another's file is not taken up."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity

    def save(self, state: dict[str, Any]) -> None:
        """state: tensors, numbers, strings, and dicts and lists of these. Raises OutputError."""
        try:
            with scratch.replacing(self._path, "wb") as file:
                torch.save({"identity": self._identity, "state": state}, file)
        except (OSError, RuntimeError) as e:  # torch reports a full disk as RuntimeError
            raise OutputError(f"cannot write checkpoint {str(self._path)!r}: {e}") from e

    def load(self) -> dict[str, Any] | None:
        """The last state, or None: there is no file, it is damaged, or of another training."""
        try:
            held = torch.load(self._path, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        if not isinstance(held, dict) or held.get("identity") != self._identity:
            return None
        state: dict[str, Any] = held["state"]
        return state
