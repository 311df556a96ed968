"""What every imported module must satisfy, and its fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from tvm_mpq.errors import MPQError, UnsupportedModelError
from tvm_mpq.frontends.naming import bindings

GenericArray = npt.NDArray[np.generic]

_REFUSED_FLOATS = frozenset({"float16", "bfloat16", "float64"})


def one_line(error: BaseException) -> str:
    """The first meaningful line of an error's text, for messages of ours."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [s for s in lines if s and not s.startswith(("Traceback", "File ", "During handling"))]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside, and nobody foresaw, into a refusal of one line that begins with `what`.

    Importers and passes meet networks that nobody has tried; the error that they stumbled on is kept as the cause.

    Raises
    ------
    UnsupportedModelError
    """
    try:
        yield
    except (MPQError, MemoryError):
        raise
    except Exception as e:
        reason = one_line(e)
        kind = "" if reason == type(e).__name__ else f"{type(e).__name__}: "
        raise UnsupportedModelError(f"{what}: {kind}{reason}") from e


def check_values(tensors: Iterable[tuple[str, GenericArray]]) -> None:
    """Refuse NaN, and float types other than float32; a single number may be float64.

    Infinities have a meaning (bounds of a clip, attention masks); weights that hold one are refused where it is known
    that they are weights (`passes.normalize.fuse_operators`).

    Raises
    ------
    UnsupportedModelError
        Naming the tensor.
    """
    for name, values in tensors:
        if values.dtype.name in _REFUSED_FLOATS and values.size > 1:
            raise UnsupportedModelError(
                f"weights must be float32 (got {values.dtype.name} in tensor {name!r}); export the model in float32"
            )
        count = int(np.count_nonzero(np.isnan(values))) if values.dtype.kind == "f" else 0
        if count:
            raise UnsupportedModelError(
                f"constants must be numbers (got NaN in tensor {name!r}, {count} of {values.size} values); "
                "export the model from a sound checkpoint"
            )


def check_module(mod: tvm.IRModule, what: str) -> None:
    """Refuse a `main` with non-static shapes, control flow, or float types other than float32.

    Raises
    ------
    UnsupportedModelError
    """
    main = mod["main"]
    if not isinstance(main.body, relax.SeqExpr):
        raise UnsupportedModelError(
            f"{what}: function `main` is not in normal form; run relax.transform.Normalize on it"
        )
    for binding in bindings(main):
        if isinstance(binding, relax.VarBinding) and isinstance(binding.value, relax.If):
            raise UnsupportedModelError(f"{what}: control flow at {binding.var.name!r} is not supported")
    for var in [*main.params, *(b.var for b in bindings(main))]:
        for ty in _tensor_types(var.ty):
            if not isinstance(ty.shape, relax.ShapeExpr) or not all(isinstance(d, tvm.tirx.IntImm) for d in ty.shape):
                raise UnsupportedModelError(
                    f"{what}: the shape of tensor {var.name!r} is only known at run time (got {ty}); "
                    "give the shapes of all inputs, or export the model with static shapes"
                )
            if str(ty.dtype) in _REFUSED_FLOATS and ty.ndim > 0:
                raise UnsupportedModelError(
                    f"{what}: tensors must be float32 (got {ty.dtype} in {var.name!r}); export the model in float32"
                )


def _tensor_types(ty: tvm.ir.Type) -> Iterator[relax.TensorType]:
    if isinstance(ty, relax.TensorType):
        yield ty
    elif isinstance(ty, relax.TupleType):
        for f in ty.fields:
            yield from _tensor_types(f)


def constants(mod: tvm.IRModule) -> list[tuple[str, GenericArray]]:
    """Every constant of `main` in order of use, with the name of the binding that uses it."""
    found: list[tuple[str, GenericArray]] = []
    for binding in bindings(mod["main"]):
        name = str(binding.var.name)

        def visit(e: relax.Expr, name: str = name) -> None:
            if isinstance(e, tvm.ir.GenericConst):
                found.append((name, e.value.numpy()))

        relax.analysis.post_order_visit(binding.value, visit)
    return found


def fingerprint(mod: tvm.IRModule) -> str:
    """sha256 of structure, names and weights; equal in every process."""
    digest = hashlib.sha256(mod.script(show_meta=False).encode())
    for _, values in constants(mod):
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
