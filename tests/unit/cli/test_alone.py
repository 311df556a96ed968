"""TVM is imported as if PyTorch were not installed, which is there afterwards. Stand-ins: both take seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from tvm_mpq import cli
from tvm_mpq.cli import alone

{before}
alone.import_tvm_alone()
import tvm
print(tvm.seen)
import torch
print(torch.__name__, tvm.part)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM imports PyTorch first")
@pytest.mark.parametrize(("before", "seen"), [("", "False"), ("import torch", "True")])
def test_tvm_does_not_see_pytorch(before: str, seen: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "tvm").mkdir()
    (tmp_path / "tvm" / "__init__.py").write_text(
        "try:\n    import torch\n    seen = True\nexcept ImportError:\n    seen = False\nfrom tvm import part\n"
    )
    (tmp_path / "tvm" / "part.py").write_text("try:\n    import torch\nexcept ImportError:\n    torch = None\n")
    code = PROGRAM.format(folder=str(tmp_path), before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == seen and second.startswith("torch <module 'tvm.part'")


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
