"""torch: an nn.Module with example inputs, an ExportedProgram, or a .pt2 file. torch is imported only when needed."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_mpq.errors import FileFormatError, InvalidValueError, MissingDependencyError, MPQError, UnsupportedModelError
from tvm_mpq.frontends.checks import GenericArray, check_values, one_line
from tvm_mpq.frontends.imported import Imported, abandon
from tvm_mpq.frontends.naming import is_anonymous, owner_of
from tvm_mpq.frontends.shapes import Shapes, fix_symbols
from tvm_mpq.frontends.torch_arguments import honour_arguments
from tvm_mpq.frontends.torch_reference import TorchReference

_WEIGHTED = frozenset(
    [
        "convolution",
        "addmm",
        "mm",
        "bmm",
        "baddbmm",
        "matmul",
        "linear",
        "embedding",
        "_native_batch_norm_legit_no_training",
        "native_layer_norm",
        "native_group_norm",
        "layer_norm",
        "group_norm",
        "batch_norm",
        "conv1d",
        "conv2d",
        "conv3d",
    ]
)
_RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
_PASS_ON = frozenset(
    [
        "permute",
        "t",
        "transpose",
        "view",
        "_unsafe_view",
        "reshape",
        "expand",
        "clone",
        "unsqueeze",
        "squeeze",
        "_to_copy",
    ]
)


def is_torch(model: Any) -> bool:
    """True for an nn.Module or ExportedProgram. Does not import torch: whoever holds one has done that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))


def load_pt2(file: Path, shapes: Shapes) -> Imported:
    """Import a file written by torch.export.save.

    Raises
    ------
    FileFormatError
        If the file is not one.
    MissingDependencyError
        If torch is not installed.
    UnsupportedModelError
        As `load_torch`.
    """
    torch = _torch()
    try:
        with _quiet():
            program = torch.export.load(str(file))
    except Exception as e:
        raise FileFormatError(
            f"{str(file)!r} cannot be read as a .pt2 file; write it with torch.export.save ({one_line(e)})"
        ) from e
    return _import(program, shapes, file.name)


def load_torch(model: Any, example_inputs: Any, shapes: Shapes) -> tuple[Imported, str]:
    """Import a module or exported program; the second result is its name.

    Raises
    ------
    InvalidValueError
        If a module comes without `example_inputs`.
    UnsupportedModelError
        If torch.export or the importer refuses the model, for dynamic shapes and non-finite weights.
    """
    torch = _torch()
    if not isinstance(model, torch.nn.Module):
        return _import(model, shapes, "the exported program"), "exported_program"
    name = type(model).__name__
    if example_inputs is None:
        raise InvalidValueError(
            f"example_inputs must be given with the torch module {name}: the arguments of its forward"
        )
    args, kwargs = _arguments(example_inputs)
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        with _quiet():
            program = torch.export.export(model, args, kwargs)
    except Exception as e:
        raise UnsupportedModelError(f"torch.export cannot export {name}: {one_line(e)}") from e
    finally:
        for module in training:  # the caller's module stays as it was
            module.training = True
    return _import(program, shapes, name), name


def _torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingDependencyError("torch models need torch; install it with: pip install 'tvm-mpq[torch]'") from e
    return torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns about its own deprecations, and TVM's importer prints; errors carry what matters."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    torch = _torch()

    def tensor(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    if isinstance(example_inputs, Mapping):
        return (), {str(k): tensor(v) for k, v in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(tensor(v) for v in example_inputs), {}
    return (tensor(example_inputs),), {}


def _import(program: Any, shapes: Shapes, what: str) -> Imported:
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    from tvm_mpq.frontends import torch_operators, torch_rnn

    check_values(_tensors(program))
    importer = ExportedProgramImporter()
    exported = program
    try:
        with _quiet():
            program = program.run_decompositions(torch_operators.decompositions())
            honour_arguments(program, what)
            importer.convert_map.update(torch_rnn.converters(program, importer))
            importer.convert_map.update(torch_operators.converters(importer, what))
            _check_operators(program, importer, what)
            mod = importer.from_exported_program(program, False, True, False, None)
    except Exception as e:
        if getattr(importer, "block_builder", None) is not None:  # set when conversion begins
            abandon(importer.block_builder)
        if isinstance(e, MPQError):
            raise
        raise UnsupportedModelError(f"{what} cannot be imported: {one_line(e)}") from e
    names = [str(p.name) for p in mod["main"].params]
    fixed = fix_symbols(mod, shapes, names)
    _check_ranges(program, mod, fixed)
    tensors = {str(v.name): n.name for n, v in importer.env.items() if isinstance(v, relax.Var)}
    reference = TorchReference(exported, names)
    return Imported(fixed, _owners(program, importer.env), tuple(names), tensors=tensors, reference=reference)


def _check_ranges(program: Any, mod: tvm.IRModule, fixed: tvm.IRModule) -> None:
    """Sizes within what the program was exported for: its operators may depend on that."""
    ranges = {str(symbol): found for symbol, found in program.range_constraints.items()}
    for free, given in zip(mod["main"].params, fixed["main"].params, strict=True):
        for axis, (symbol, size) in enumerate(zip(free.ty.shape, given.ty.shape, strict=True)):
            found = ranges.get(str(symbol))
            if found is None:
                continue
            # torch.export says 2 where it means 1: it cannot tell an axis of one element from a fixed one.
            low, high = (found.lower if found.lower > 2 else 1), found.upper
            if not low <= int(size) <= high:
                raise InvalidValueError(
                    f"axis {axis} of input {str(free.name)!r} was exported for sizes {low} to {high} (got {int(size)})"
                )


def _tensors(program: Any) -> Iterator[tuple[str, GenericArray]]:
    for name, tensor in [*program.state_dict.items(), *program.constants.items()]:
        if hasattr(tensor, "detach"):
            cpu = tensor.detach().cpu()
            if str(cpu.dtype) == "torch.bfloat16":
                raise UnsupportedModelError(f"weights must be float32 (got bfloat16 in tensor {name!r}); call .float()")
            yield name, cpu.numpy()


def _check_operators(program: Any, importer: Any, what: str) -> None:
    called = {n.target.__name__ for n in program.graph.nodes if n.op == "call_function"}
    unknown = sorted(called - set(importer.convert_map))
    if unknown:
        raise UnsupportedModelError(
            f"{what}: unknown operator{'s' * (len(unknown) > 1)} {', '.join(unknown)}; "
            "write the model with others, or export it with torch.onnx.export and give that file"
        )


def _owners(program: Any, env: Mapping[Any, Any]) -> dict[str, str]:
    """See `Imported.owners`. Operators with weights are called after the weight, others after their module."""
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    targets = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target is not None}
    parameters = {n: targets[n.name] for n in program.graph.nodes if n.op == "placeholder" and n.name in targets}
    alone: dict[str, int] = {}  # how many operators a module has become
    for node in calls:
        if _short(node) in _PASS_ON and _read(node, parameters):
            parameters[node] = _read(node, parameters)[0]
        elif _short(node) != "getitem":
            alone[_module(node)[0]] = alone.get(_module(node)[0], 0) + 1
    owners: dict[str, str] = {}
    for node in calls:
        if node in parameters:
            continue  # belongs to the operator that uses the weight
        result = env.get(node)
        results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        made = [r for r in results if isinstance(r, relax.Var)]
        if made:
            owners.setdefault(str(made[-1].name), _name(node, _read(node, parameters), alone))
    return owners


def _name(node: Any, read: list[str], alone: dict[str, int]) -> str:
    """`layer1.conv1` from its weight, `layer1.relu` for a module of torch.nn, `layer1.add` in one of the user's."""
    path, library = _module(node)
    short = _short(node)
    if short in _WEIGHTED and read:
        weight = next((p for p in read if p.endswith("weight")), read[0])
        owner = path if is_anonymous(weight) else owner_of(weight)
        # A weight that two layers share has one name; the module's tells them apart.
        name = path if library and not owner.startswith(path) else owner
    elif library and (alone.get(path) == 1 or short in _RECURRENT):
        name = path
    else:
        name = f"{path}.{short}" if path else short
    return name or short


def _read(node: Any, parameters: dict[Any, str]) -> list[str]:
    return [parameters[a] for a in node.args if type(a).__name__ == "Node" and a in parameters]


def _short(node: Any) -> str:
    """`convolution` for aten.convolution.default."""
    return str(node.target.__name__).split(".")[0]


def _module(node: Any) -> tuple[str, bool]:
    """The module a call stands in, and whether it is one of torch.nn's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = list(stack.values())[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return str(path), kind.startswith("torch.nn.modules.") and ".container." not in kind
