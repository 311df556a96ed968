"""FixShapes: inputs with symbolic sizes get numbers.

before  main(x: R.Tensor((b, 3, h, w)))
after   main(x: R.Tensor((1, 3, 320, 320)))

Stands before Normalize, which refuses symbolic sizes. Sizes that are numbers already are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm

from tvm_mpq.frontends.shapes import Shapes, fix_symbols


@tvm.transform.module_pass(opt_level=0, name="tvm_mpq.FixShapes")
class FixShapes:
    """Bind the symbolic sizes of `main`'s inputs.

    Parameters
    ----------
    input_shapes
        Shapes by the name of `main`'s parameter, for what has symbolic sizes beside a first axis.
    batch
        Size of a symbolic first axis that `input_shapes` leaves open.

    Raises
    ------
    UnsupportedModelError
        If a symbolic size stays open; the text says what to give.
    InvalidValueError
        If `input_shapes` does not fit the module.
    """

    def __init__(self, input_shapes: Mapping[str, Sequence[int]] | None = None, *, batch: int = 1) -> None:
        self._shapes, self._batch = dict(input_shapes or {}), batch

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        names = [str(p.name) for p in mod["main"].params]
        return fix_symbols(mod, Shapes(self._batch, self._shapes), names)
