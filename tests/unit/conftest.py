"""One small network with compiled kernels, for whoever needs to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mpq_testing.lab import Lab


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Convolution with hard-swish, convolution with a shortcut, classifier."""
    import onnx  # only here: most tests need neither ONNX nor TVM

    from mpq_testing.lab import Lab
    from mpq_testing.onnx_models import OnnxNet

    net = OnnxNet({"x": (1, 3, 6, 6)})
    y = net.op("HardSwish", net.conv("x", 3, 16, name="stem"))
    y = net.relu(net.op("Add", net.conv(y, 16, 16, 1, name="block"), y))
    folder = tmp_path_factory.mktemp("tiny")
    onnx.save(net.model(net.classifier(y, 16)), str(folder / "tiny.onnx"))
    return Lab(folder / "tiny.onnx", folder / "kernels")
