"""Which budget the demo asks for: latency where fewer bits are faster, else size."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline import demo
from tvm_mpq.pipeline.options import Options

torch = pytest.importorskip("torch", reason="the demo trains with PyTorch (extra `demo`)")
pytest.importorskip("sklearn", reason="the demo learns scikit-learn's digits (extra `demo`)")


@pytest.mark.parametrize("faster", [True, False])
def test_latency_where_it_can_be_had_else_size(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Options] = []
    said: list[str] = []

    def optimize(options: Options) -> Any:
        asked.append(options)
        if options.budget.latency_ratio is not None and not faster:
            raise InfeasibleError("latency: the least is 0.97")
        return "result"

    monkeypatch.setattr(demo, "optimize", optimize)
    monkeypatch.setattr(demo, "train_network", lambda images, labels: torch.nn.Linear(1000, 10))
    assert demo.demo(Options(model=None, say=said.append)) == "result"
    assert asked[0].budget.latency_ratio == demo.LATENCY_SHARE and asked[0].budget.size_mb is None
    if faster:
        assert len(asked) == 1
        return
    assert asked[1].budget.latency_ratio is None
    assert asked[1].budget.size_mb == pytest.approx(demo.SIZE_SHARE * 10_000 / 1e6)
    assert any("the least is 0.97" in text and "size budget instead" in text for text in said)
