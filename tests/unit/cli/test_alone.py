"""TVM is imported as if PyTorch were not installed, which is there afterwards. Mostly stand-ins: both take seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = "import torch as loaded"

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from tvm_mpq import cli
from tvm_mpq.cli import alone

loaded = None
{before}
alone.import_tvm_alone()
{between}
import tvm
print(tvm.seen)
import torch
print(torch.__name__, tvm.part)
assert torch is (loaded or torch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM imports PyTorch first")
@pytest.mark.parametrize(("before", "between"), [("", ""), (IMPORT, ""), ("", IMPORT)])
def test_tvm_does_not_see_pytorch_unless_it_is_imported_already(before: str, between: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").write_text(
        "try:\n    import torch\n    seen = True\nexcept ImportError:\n    seen = False\nfrom tvm import part\n"
    )
    (tmp_path / "tvm" / "part.py").write_text("try:\n    import torch\nexcept ImportError:\n    torch = None\n")
    code = PROGRAM.format(folder=str(tmp_path), before=before, between=between)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == str(bool(before or between)) and second.startswith("torch <module 'tvm.part'")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM imports PyTorch first")
def test_the_program_does_so() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from tvm_mpq import cli\nfrom tvm_mpq.cli import alone\n"
        "alone.import_tvm_alone = lambda: print('alone', flush=True)\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("alone\ntvm-mpq, version")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM imports PyTorch first")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_a_command_that_imports_tvm_does_not_import_pytorch() -> None:
    """In the process that does the work; the one that waits for it imports neither."""
    code = (
        "import atexit, sys; sys.argv[1:] = ['inspect', 'no.onnx']\n"
        "atexit.register(lambda: print('tvm' in sys.modules, 'torch' in sys.modules))\n"
        "from tvm_mpq import cli\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no model file" in done.stderr, done.stderr
    assert sorted(done.stdout.splitlines()) == ["False False", "True False"]
