"""The best plan of one precision everywhere: what is done where nothing searches."""

from __future__ import annotations

from typing import ClassVar

from tvm_mpq.select.methods.search import Search
from tvm_mpq.select.methods.starts import uniforms


class UniformPlans:
    """Implements `Method`. Deterministic."""

    name: ClassVar[str] = "uniform"
    evaluations: ClassVar[int] = 1000

    def explore(self, search: Search) -> None:
        for labels in uniforms(search.completion):
            search.start(labels)
