"""torch's interpolate as what it is: a linear map along each axis, read off torch itself.

TVM's resize takes the ratio of the sizes where torch may mean the given scale, rounds positions of its own where sizes
are no multiples, and knows no antialiasing. It is used where both mean the same, because its loops are scheduled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.axis_products import along


def resize(node: Any, importer: Any, given: Mapping[str, Any], what: str) -> Any:
    """None where TVM's converter means the same.

    Raises
    ------
    UnsupportedModelError
        Where sizes are only known later, and they decide whether it does.
    """
    x = given["input"]
    before, after = list(x.ty.shape)[2:], list(node.meta["val"].shape)[2:]
    factors = [None] * len(before) if given.get("scale_factors") is None else list(given["scale_factors"])
    if not all(isinstance(b, tvm.tirx.IntImm) and isinstance(a, int) for b, a in zip(before, after, strict=True)):
        _check_free(node, factors, what)
        return None
    sizes = [(int(b), int(a)) for b, a in zip(before, after, strict=True)]
    if _tvm_means_the_same(str(node.target.__name__).split(".")[0], sizes, factors):
        return None
    rank = len(sizes) + 2
    for axis, (size, result) in enumerate(sizes):
        matrix = interpolation(node.target, given, axis, size, result)
        if not np.array_equal(matrix, np.eye(size)):
            x = importer.block_builder.emit(along(x, axis + 2, rank, matrix))
    return x


def _tvm_means_the_same(name: str, sizes: list[tuple[int, int]], factors: list[float | None]) -> bool:
    """Larger images whose scale is the quotient of the sizes; without interpolation, whole multiples of them."""
    if name not in ("upsample_bilinear2d", "upsample_nearest2d"):
        return False
    scaled = zip(sizes, factors, strict=True)
    quotient = all(factor is None or abs(before * factor - after) < 1e-6 for (before, after), factor in scaled)
    whole = name == "upsample_bilinear2d" or all(after % before == 0 for before, after in sizes)
    return quotient and whole and all(after >= before and after > 1 for before, after in sizes)


def _check_free(node: Any, factors: list[float | None], what: str) -> None:
    name = str(node.target.__name__).split(".")[0]
    if name not in ("upsample_bilinear2d", "upsample_nearest2d") or any(f is not None and f % 1 for f in factors):
        raise UnsupportedModelError(
            f"{what}: interpolate ({name}) of an image whose size is open when it is exported is read with whole "
            "factors, nearest or bilinear, only; export the model with fixed sizes"
        )


def interpolation(
    operator: Any, given: Mapping[str, Any], axis: int, size: int, result: int
) -> npt.NDArray[np.float32]:
    """float32[result, size]: how much each element along a spatial axis adds to each of the result.

    Found by running torch's operator on an axis with a single one at each place. Other axes have two elements, and keep
    them: with one, torch takes an image for channels-last and computes something else.
    """
    import torch

    own = {name: value for name, value in given.items() if name != "input"}
    axes = len(own["output_size"] or own["scale_factors"])
    others = [1 if a == axis else 2 for a in range(axes)]
    for name, kept in (("output_size", others), ("scale_factors", [1.0] * axes)):
        if own.get(name) is not None:
            own[name] = [own[name][a] if a == axis else n for a, n in enumerate(kept)]
    ones = torch.eye(size, dtype=torch.float64).reshape(1, size, *(size if a == axis else 1 for a in range(axes)))
    ones = ones.repeat(1, 1, *others)
    found = operator(ones, **own)
    for a in range(axes):
        if a != axis:
            found = found.narrow(a + 2, 0, 1)
    return np.ascontiguousarray(found.reshape(size, result).numpy().T, np.float32)
