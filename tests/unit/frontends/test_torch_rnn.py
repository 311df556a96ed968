"""torch's recurrent modules against torch, as imported and as kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends import load_model
from tvm_mpq.passes import Normalize
from tvm_mpq.passes.graph import read_graph

torch = pytest.importorskip("torch")
nn = torch.nn

T, N, INPUTS, H = 5, 2, 3, 4
MODULES = {
    "lstm": lambda: nn.LSTM(INPUTS, H, num_layers=2, bidirectional=True),
    "lstm_without_bias": lambda: nn.LSTM(INPUTS, H, bias=False, batch_first=True),
    "gru": lambda: nn.GRU(INPUTS, H, num_layers=2, bidirectional=True, batch_first=True),
    "rnn_tanh": lambda: nn.RNN(INPUTS, H),
    "rnn_relu": lambda: nn.RNN(INPUTS, H, nonlinearity="relu", bidirectional=True),
}


class Everything(nn.Module):
    """All results of a recurrent module; given: the initial states are inputs."""

    def __init__(self, inner, given):
        super().__init__()
        self.inner, self.given = inner, given

    def forward(self, x, *states):
        y, last = self.inner(x, (states if len(states) > 1 else states[0]) if self.given else None)
        return (y, *last) if isinstance(last, tuple) else (y, last)


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "given"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_equals_torch(run, rng, make, given) -> None:
    torch.manual_seed(1)
    inner = make().eval()
    shape = (N, T, INPUTS) if inner.batch_first else (T, N, INPUTS)
    inputs = [rng.normal(0, 1, shape).astype(np.float32)]
    if given:
        rows = inner.num_layers * (2 if inner.bidirectional else 1)
        for _ in range(2 if isinstance(inner, nn.LSTM) else 1):
            inputs.append(rng.normal(0, 1, (rows, N, H)).astype(np.float32))
    tensors = tuple(map(torch.from_numpy, inputs))
    module = Everything(inner, given)
    with torch.no_grad():
        want = module(*tensors)
    for found, expected in zip(run(load_model(module, example_inputs=tensors), *inputs), want, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-6)


def test_many_steps_are_few_operators() -> None:
    """49 steps, of which torch's own export makes 1,200 operators."""

    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.fc = nn.GRU(10, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(self.gru(x)[0][:, -1])

    graph = read_graph(Normalize()(load_model(Keyword(), example_inputs=torch.zeros(1, 49, 10)).mod))
    assert len(graph.nodes) < 12
    assert [n.name for n in graph.weighted()] == ["gru", "fc"]
    (cell,) = (n for n in graph.nodes if n.kind == "recurrent")
    assert not cell.workload.emits_states and cell.workload.reset_after


def test_projections_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="projection"):
        load_model(nn.LSTM(INPUTS, H, proj_size=2), example_inputs=torch.zeros(T, N, INPUTS))
