"""How the dynamic axes of a model's inputs become fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

from tvm_mpq.errors import InvalidValueError, UnsupportedModelError


class Shapes:
    """The user's wishes: `batch` for a dynamic first axis, `given` shapes by input name. Collects notes.

    Raises
    ------
    InvalidValueError
        If `batch` or a given size is below 1.
    """

    def __init__(self, batch: int | None, given: Mapping[str, Sequence[int]] | None) -> None:
        if batch is not None and batch < 1:
            raise InvalidValueError(f"batch must be 1 or more (got {batch})")
        self.batch = batch
        self.notes: list[str] = []
        self._given = {name: tuple(int(n) for n in shape) for name, shape in (given or {}).items()}
        self._used: set[str] = set()
        for name, shape in self._given.items():
            if any(n < 1 for n in shape):
                raise InvalidValueError(f"sizes in input_shapes must be 1 or more (got {shape} for input {name!r})")

    def fix(self, name: str, shape: Sequence[int | str | None] | None) -> tuple[int, ...]:
        """The static shape of input `name`.

        Parameters
        ----------
        shape : sequence or None
            int for a fixed axis, the symbol's name or None for a dynamic one; None for an unknown rank.

        Raises
        ------
        UnsupportedModelError
            For a dynamic axis that neither `batch` nor a given shape fixes.
        InvalidValueError
            If a given shape contradicts the model's.
        """
        given = self._given.get(name)
        if given is not None:
            self._used.add(name)
            fixed = [d if isinstance(d, int) else None for d in shape] if shape is not None else [None] * len(given)
            if len(fixed) != len(given) or any(f not in (None, g) for f, g in zip(fixed, given, strict=True)):
                text = "x".join("?" if f is None else str(f) for f in fixed)
                raise InvalidValueError(f"input {name!r} has shape {text} in the model (got {given} in input_shapes)")
            return given
        if shape is None:
            raise UnsupportedModelError(
                f"input {name!r} has no known rank; give its shape, e.g. input_shapes={{{name!r}: (1, 3, 224, 224)}}"
            )
        for axis, size in enumerate(shape):
            if not isinstance(size, int) and (axis > 0 or self.batch is None):
                symbol = f" ({size})" if size else ""
                raise UnsupportedModelError(
                    f"input {name!r} has a dynamic axis {axis}{symbol}; only a batch axis 0 is fixed by itself: "
                    f"export with static shapes or give input_shapes={{{name!r}: (...)}}"
                )
        sizes = [s if isinstance(s, int) else self.batch for s in shape]
        if shape and not isinstance(shape[0], int):
            self.notes.append(f"dynamic batch axis of input {name!r} fixed to {self.batch}")
        elif shape and self.batch not in (None, 1, shape[0]):
            self.notes.append(f"batch of input {name!r} is {shape[0]} in the model; batch {self.batch} was not used")
        return tuple(s for s in sizes if s is not None)

    def check_all_used(self, input_names: Sequence[str]) -> None:
        """Raises InvalidValueError when a given shape is for an input that the model does not have."""
        unknown = sorted(set(self._given) - set(input_names))
        if unknown:
            raise InvalidValueError(
                f"input_shapes names unknown input {unknown[0]!r}; the model's inputs are {', '.join(input_names)}"
            )


def fix_symbols(mod: tvm.IRModule, shapes: Shapes, input_names: list[str]) -> tvm.IRModule:
    """Give every symbolic size of `main`'s inputs its number."""
    sizes: dict[tvm.tirx.Var, int] = {}
    for param, name in zip(mod["main"].params, input_names, strict=True):
        ty = param.ty
        if not isinstance(ty, relax.TensorType):
            raise UnsupportedModelError(f"input {name!r} must be a tensor (got {ty})")
        if not isinstance(ty.shape, relax.ShapeExpr):
            raise UnsupportedModelError(f"input {name!r} has no shape in the module; declare one")
        dims = list(ty.shape)
        fixed = shapes.fix(name, [int(d) if isinstance(d, tvm.tirx.IntImm) else str(d) for d in dims])
        for dim, size in zip(dims, fixed, strict=True):
            if isinstance(dim, tvm.tirx.Var) and sizes.setdefault(dim, size) != size:
                raise UnsupportedModelError(
                    f"axis {dim} has size {sizes[dim]} in one input and {size} in input {name!r}; give equal sizes"
                )
    return relax.transform.BindSymbolicVars(sizes, "main")(mod) if sizes else mod
