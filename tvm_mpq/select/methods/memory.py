"""What a search that was ended knows when it begins again: methods that take minutes go on where they stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


class Memory(Protocol):
    """Keeps the state of one search: JSON values."""

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where there is nothing, or nothing that can be read."""

    def save(self, state: dict[str, Any]) -> None:
        """Replaces what was saved before, as a whole: whoever is killed meanwhile leaves one of the two."""

    def forget(self) -> None:
        """The search is over."""


Memories = Callable[[str], Memory]
"""The memory of the search that a text tells from all others."""


@runtime_checkable
class Resumable(Protocol):
    """A method that saves its state (`Search.keep`), and goes on from one (`Search.recalled`)."""

    settings: tuple[object, ...]
    """Whatever its plans depend on beside problem, limits and effort."""
