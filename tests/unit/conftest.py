"""For several folders of tests: the command line in this process, and one small network with compiled kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Call the entry point in this process, with a cache folder of its own: exit code, stdout, stderr."""
    from tvm_mpq import cli

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    capsys.readouterr()

    def run(*args: object) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main([str(a) for a in args])
        except SystemExit as e:
            code = int(e.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
