"""What a command answered: helpers for tests of the command line, whose fixture `run` gives a `Result`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Result = tuple[int, str, str]
"""Exit code, standard output, standard error."""

Run = Callable[..., Result]


def failed(result: Result, *words: str, code: int = 1) -> None:
    """Nothing on standard output, one `error:` line at the end, which holds all words. code: 2 for options' values."""
    assert result[:2] == (code, ""), result[2]
    err = result[2]
    *before, last = err.splitlines()
    assert last.startswith("error: ") and not any(line.startswith("error: ") for line in before)
    assert "Traceback" not in err
    for word in words:
        assert word in last


def one_object(result: Result) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(out, parse_constant=refuse)
    assert isinstance(found, dict)
    return found
