"""From a model in any form to a Relax module: the one function that callers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvm_mpq.errors import FileFormatError, MissingFileError, UnsupportedModelError
from tvm_mpq.frontends.checks import check_module, fingerprint, refusing
from tvm_mpq.frontends.imported import Imported
from tvm_mpq.frontends.naming import UniqueNames, bindings, names_by_variable, new_names, rename, safe
from tvm_mpq.frontends.reference import Reference
from tvm_mpq.frontends.shapes import Shapes
from tvm_mpq.schema import StoredQuantization

SUFFIXES = (".onnx", ".tflite", ".pt2")


@dataclass(frozen=True)
class Loaded:
    """A model as Relax.

    mod : `main` takes the model's inputs only, all shapes are static, weights are constants, and the variables bound to
        operators are called what the source model calls the operators.
    input_names : the model's own names of `main`'s parameters, in order; the parameters have valid variants of them.
    fingerprint : sha256 of structure and weights.
    notes : what was decided in the user's stead, one sentence each.
    tensors : variable of `main` -> the tensor of the source model that it holds, as `reference` calls it.
    reference : an independent evaluator of the source model, to verify the import by; None where there is none.
    stored : of a file that was quantized elsewhere, its numbers by the names of variables; its weights are floats here.
    """

    mod: tvm.IRModule
    input_names: tuple[str, ...]
    name: str
    fingerprint: str
    notes: tuple[str, ...]
    tensors: Mapping[str, str] = field(default_factory=dict, compare=False)
    reference: Reference | None = field(default=None, compare=False)
    stored: StoredQuantization | None = None


def load_model(
    model: Any,
    *,
    example_inputs: Any = None,
    batch: int | None = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Loaded:
    """Load a network in any supported form.

    Parameters
    ----------
    model : str, Path, torch.nn.Module, torch.export.ExportedProgram or tvm.IRModule
        A path ends in .onnx, .tflite or .pt2; an IRModule has a Relax function `main`.
    example_inputs : tensor, or tuple, list or dict of tensors
        For an nn.Module only: arguments of its forward, whose shapes the import keeps.
    batch : int or None
        Size of a dynamic first axis; None refuses dynamic axes.
    input_shapes : dict
        Full shapes by input name, where the model leaves axes open; a symbol that inputs share is given once.

    Raises
    ------
    MissingFileError, FileFormatError
        If there is no such file, or it is not what its name says.
    UnsupportedModelError
        For unknown operators, dynamic shapes, and weights that are not finite float32.
    MissingDependencyError
        If torch is needed and not installed.
    InvalidValueError
        For a wrong `batch`, `input_shapes` or `example_inputs`.
    """
    shapes = Shapes(batch, input_shapes)
    with refusing(f"{_name(model)} cannot be imported"):
        return _loaded(*_import(model, example_inputs, shapes), shapes)


def _name(model: Any) -> str:
    return Path(model).name if isinstance(model, (str, Path)) else f"the {type(model).__name__}"


def _loaded(imported: Imported, name: str, shapes: Shapes) -> Loaded:
    """With names and checks."""
    names = UniqueNames()
    parameters = [names.unique(safe(n).replace(".", "_")) for n in imported.input_names]
    variables = names_by_variable(imported.mod["main"], imported.owners)
    mod = _tidy(imported.mod)
    new = new_names(mod["main"], variables, parameters)
    mod = rename(mod, new)
    check_module(mod, name)
    notes = (*shapes.notes, *imported.notes)
    tensors = {variables[v]: source for v, source in imported.tensors.items() if v in variables}
    stored = None if imported.stored is None else _under(imported.stored, imported.mod, new)
    return Loaded(mod, imported.input_names, name, fingerprint(mod), notes, tensors, imported.reference, stored)


def _under(stored: StoredQuantization, imported: tvm.IRModule, new: Mapping[str, str]) -> StoredQuantization:
    """By new names, of two variables that were one by that which is left; what tidying has removed is left out."""
    known = dict(new)
    for binding in bindings(imported["main"]):
        if isinstance(binding.value, relax.Var) and str(binding.var.name) in new:
            known.setdefault(str(binding.value.name), new[str(binding.var.name)])
    return StoredQuantization(
        {known[name]: quant for name, quant in stored.tensors.items() if name in known},
        {known[name]: scales for name, scales in stored.weights.items() if name in known},
    )


def _import(model: Any, example_inputs: Any, shapes: Shapes) -> tuple[Imported, str]:
    if isinstance(model, (str, Path)):
        return _import_file(Path(model), shapes), Path(model).stem
    if isinstance(model, tvm.IRModule):
        from tvm_mpq.frontends.relax_module import load_relax

        return load_relax(model, shapes), "main"
    from tvm_mpq.frontends.torch_model import is_torch, load_torch

    if is_torch(model):
        return load_torch(model, example_inputs, shapes)
    raise UnsupportedModelError(
        "a model is a path (.onnx, .tflite, .pt2), a torch.nn.Module, a torch.export.ExportedProgram or a tvm.IRModule "
        f"(got {type(model).__name__})"
    )


def _import_file(file: Path, shapes: Shapes) -> Imported:
    # Importers are imported when needed: each brings its own heavy package.
    if file.is_dir():
        raise FileFormatError(f"a model is a file (got the folder {str(file)!r})")
    if not file.exists():
        raise MissingFileError(f"no model file at {str(file)!r}")
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        from tvm_mpq.frontends.onnx_file import load_onnx

        return load_onnx(file, shapes)
    if suffix == ".tflite":
        from tvm_mpq.frontends.tflite_file import load_tflite

        return load_tflite(file, shapes)
    if suffix == ".pt2":
        from tvm_mpq.frontends.torch_model import load_pt2

        return load_pt2(file, shapes)
    hint = "; save a torch model with torch.export.save to .pt2" if suffix in (".pt", ".pth", ".bin") else ""
    raise UnsupportedModelError(f"a model file ends in {', '.join(SUFFIXES)} (got {file.name!r}){hint}")


def _tidy(mod: tvm.IRModule) -> tvm.IRModule:
    """Aliases, tuples of known fields and dead operators go; `main` keeps no attribute of its importer."""
    mod = tvm.IRModule(mod.functions)
    main = mod.get_global_var("main")
    function = mod[main]
    for attribute in list(function.attrs.keys()) if function.attrs else []:
        if attribute != "global_symbol":
            function = function.without_attr(attribute)
    mod.update_func(main, function)
    tidy = tvm.transform.Sequential(
        [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    )
    return tidy(mod)
