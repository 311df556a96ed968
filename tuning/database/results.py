"""Whatever else is worth keeping beside latencies, as JSON under (kind, key): ranges, sensitivity sums, call overhead.

The key holds a digest of everything the value depends on, so that a stored value is either right or not found.
"""

from __future__ import annotations

import json
from typing import Any

from tvm_mpq.errors import FileFormatError
from tvm_mpq.schema import json_types
from tvm_mpq.tuning.database.latencies import LatencyDatabase
from tvm_mpq.tuning.database.store import now_text


class ResultStore:
    """Key-value results in a latency database; every `put` is committed at once."""

    def __init__(self, database: LatencyDatabase) -> None:
        self._store = database.store

    def put(self, kind: str, key: str, value: Any) -> None:
        """Store any JSON value; replaces what was there."""
        row = (kind, key, json.dumps(value, sort_keys=True, allow_nan=False), now_text())
        with self._store.translated() as connection:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", row)

    def get(self, kind: str, key: str) -> Any | None:
        """The value, or None when it was never stored. Raises FileFormatError for a damaged row."""
        query = "SELECT value FROM results WHERE kind = ? AND key = ?"
        with self._store.translated() as connection:
            found = connection.execute(query, (kind, key)).fetchone()
        if found is None:
            return None
        try:
            return json_types.parse(found[0])
        except (ValueError, TypeError) as e:
            raise FileFormatError(f"{str(self._store.path)!r} holds a damaged result: {e}") from e
