"""Networks with compiled kernels to compare with, each made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mpq_testing.lab import Lab

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Beside other tests on the same cores, PyTorch's threads wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def training_lab(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lab]:
    """By the name of an ONNX graph; ranges of 8, 4 and 2 bits."""
    import onnx

    from mpq_testing.lab import Lab
    from mpq_testing.onnx_models import GRAPHS, depthwise_and_shortcut
    from tvm_mpq.schema import Precision

    folder = tmp_path_factory.mktemp("training")
    offered = [Precision.parse(p) for p in ("w8a8", "w4a4", "w2a2")]
    made: dict[str, Lab] = {}

    def lab(name: str) -> Lab:
        if name not in made:
            model = depthwise_and_shortcut(9, 37) if name == "depthwise_and_shortcut" else GRAPHS[name]()
            onnx.save(model, str(folder / f"{name}.onnx"))
            made[name] = Lab(folder / f"{name}.onnx", folder / "kernels", offered=offered)
        return made[name]

    return lab
