"""Which budget the demo asks for: latency where fewer bits are faster, size where they are smaller, else none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvm_mpq.errors import InfeasibleError
from tvm_mpq.pipeline import demo
from tvm_mpq.pipeline.options import Options
from tvm_mpq.schema import Budget

torch = pytest.importorskip("torch", reason="the demo trains with PyTorch (extra `demo`)")
pytest.importorskip("sklearn", reason="the demo learns scikit-learn's digits (extra `demo`)")


@pytest.mark.parametrize("gains", ["time and size", "size", "nothing"])
def test_latency_where_it_can_be_had_else_size_else_no_budget(gains: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Options] = []
    said: list[str] = []

    def optimize(options: Options) -> Any:
        asked.append(options)
        if options.budget.latency_ratio is not None and "time" not in gains:
            raise InfeasibleError("latency: the least is 0.97")
        if options.budget.size_mb is not None and "size" not in gains:
            raise InfeasibleError("size: the least is 0.01")
        return "result"

    monkeypatch.setattr(demo, "optimize", optimize)
    monkeypatch.setattr(demo, "train_network", lambda images, labels, progress, state: torch.nn.Linear(1000, 10))
    assert demo.demo(Options(model=None, say=said.append)) == "result"
    wanted = [Budget(latency_ratio=demo.LATENCY_SHARE), Budget(size_mb=demo.SIZE_SHARE * 10_000 / 1e6), Budget()]
    assert [options.budget for options in asked] == wanted[: ["time and size", "size", "nothing"].index(gains) + 1]
    assert any("the least is 0.97" in text and "size budget instead" in text for text in said) == (len(asked) > 1)
    assert any("the least is 0.01" in text and "taking no budget" in text for text in said) == (len(asked) > 2)


def test_training_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CHANNELS", 4)
    monkeypatch.setattr(demo, "EPOCHS", 2)
    (images, labels), _ = demo.digits()
    seen: list[tuple[int, int, str]] = []
    demo.train_network(images[:150], labels[:150], lambda *step: seen.append(step))
    assert seen == [(done, 6, "training") for done in range(1, 7)]


class Killed(BaseException):
    """What ends a training in its third epoch of four."""


def test_an_interrupted_training_goes_on_and_comes_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CHANNELS", 4)
    monkeypatch.setattr(demo, "EPOCHS", 4)
    (images, labels), _ = demo.digits()
    images, labels = images[:150], labels[:150]
    steps: list[int] = []

    def until_killed(done: int, total: int, what: str) -> None:
        if done == 8:
            raise Killed

    whole = demo.train_network(images, labels)
    state = tmp_path / "folder" / "state.pt"
    with pytest.raises(Killed):
        demo.train_network(images, labels, until_killed, state)
    torch.manual_seed(5)
    resumed = demo.train_network(images, labels, lambda done, *_: steps.append(done), state)
    assert steps == list(range(7, 13)), "the epochs that were not done"
    again = demo.train_network(images, labels, lambda done, *_: steps.append(-done), state)
    assert min(steps) > 0, "nothing is trained twice"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, again.state_dict()[name]), name
    assert not any(module.training for module in (resumed, again))
    monkeypatch.setattr(demo, "EPOCHS", 5)
    demo.train_network(images, labels, lambda done, *_: steps.append(done), state)
    assert steps[-15:] == list(range(1, 16)), "another training begins anew"
