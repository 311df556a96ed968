"""How float convolutions are cut: for the registers and caches there are, without computing outputs twice."""

from __future__ import annotations

import pytest

from tvm_mpq.kernels.families.float_convolution import CONV2D
from tvm_mpq.kernels.frames.float_convolution import FloatConvolution
from tvm_mpq.kernels.machines.float32 import Float32
from tvm_mpq.kernels.registry import Request
from tvm_mpq.schema import FP32, Conv2dWorkload
from tvm_mpq.targets import features, resolve


def conv(size: int, channels: int, out: int, kernel: int = 3, stride: int = 1) -> Conv2dWorkload:
    return Conv2dWorkload(1, size, size, channels, out, (kernel, kernel), (stride, stride), (kernel // 2,) * 4)


RESNET18 = [
    conv(224, 3, 64, 7, 2), conv(56, 64, 64), conv(28, 128, 128), conv(14, 256, 256), conv(7, 512, 512),
    conv(56, 64, 128, 3, 2), conv(28, 128, 256, 3, 2), conv(14, 256, 512, 3, 2), conv(28, 512, 128, 1),
]  # fmt: skip


def frame(w: Conv2dWorkload, target: str) -> FloatConvolution:
    """With the default knobs."""
    request = Request(w, FP32, 32, features(resolve(target)))
    return FloatConvolution(request, CONV2D.knob_space(request)[0], Float32())


@pytest.mark.parametrize("w", RESNET18, ids=lambda w: w.key)
@pytest.mark.parametrize("target", ["x86-avx2", "znver4"])
def test_tiles_fit_and_hardly_overlap(w: Conv2dWorkload, target: str) -> None:
    registers = {"x86-avx2": 16, "znver4": 32}[target]
    request = Request(w, FP32, 32, features(resolve(target)))
    for knobs in CONV2D.knob_space(request):
        assert knobs["rows"] * knobs["cols"] * knobs["blocks"] + knobs["blocks"] + 1 <= registers
    f = frame(w, target)
    assert sum(size * count for size, count in f.column_tiles) == f.block_columns
    rows = -(-f.g.out_height // f.block_rows) * -(-f.block_rows // f.rows) * f.rows
    columns = -(-f.g.out_width // f.block_columns) * f.block_columns
    assert rows * columns <= 1.02 * f.g.out_height * f.g.out_width


def test_seven_columns_are_cut_in_four_and_three() -> None:
    f = frame(conv(7, 512, 512), "x86-avx2")
    assert f.column_tiles == [(4, 1), (3, 1)]
    assert f.work.products == 49 * 64 * 9 * 512  # no output twice


def test_columns_that_share_a_set_of_the_cache_are_few() -> None:
    widest = {n: frame(conv(14, n, 256, 1), "znver4").columns for n in (512, 1000, 1024, 2048)}
    assert widest[512] > 8 and widest[1000] > 8 and widest[1024] <= 7 and widest[2048] <= 7


@pytest.mark.parametrize(("w", "times"), [(conv(14, 256, 256), 1), (conv(14, 16, 32), 0)], ids=["many", "few"])
def test_many_weights_are_prefetched(w: Conv2dWorkload, times: int) -> None:
    """Once a step, for each width of the tiles and each width of the tiles of channels."""
    f = frame(w, "x86-avx2")
    assert str(f.build()).count("prefetch") == times * len(f.column_tiles) * len(f.parts)
