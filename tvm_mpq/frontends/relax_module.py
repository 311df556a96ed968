"""A Relax module that the caller made, perhaps with TVM's own frontends and parameters kept as inputs."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_mpq.errors import UnsupportedModelError
from tvm_mpq.frontends.checks import check_values, constants
from tvm_mpq.frontends.imported import Imported
from tvm_mpq.frontends.naming import PRINCIPAL, bindings, is_anonymous, operator_of, owner_of
from tvm_mpq.frontends.shapes import Shapes, fix_symbols


def load_relax(mod: tvm.IRModule, shapes: Shapes) -> Imported:
    """Bind the `params` attribute and fix dynamic axes; the caller's module stays as it is.

    Raises
    ------
    UnsupportedModelError
        Without a Relax function `main`, or with dynamic shapes that nothing fixes.
    """
    names = [gv.name_hint for gv in mod.get_global_vars()]
    if "main" not in names or not isinstance(mod["main"], relax.Function):
        raise UnsupportedModelError(
            f"an IRModule needs a Relax function `main` (got {', '.join(sorted(names)) or 'no functions'})"
        )
    mod = relax.transform.Normalize()(tvm.IRModule(mod.functions))
    values = (mod["main"].attrs or {}).get("params")
    owners: dict[str, str] = {}
    if values is not None:
        params = list(mod["main"].params)[len(mod["main"].params) - len(values) :]
        owners = _owners(mod["main"], {p: str(p.name) for p in params})
        mod = relax.transform.BindParams("main", dict(zip(params, values, strict=True)))(mod)
    mod = fix_symbols(mod, shapes, [str(p.name) for p in mod["main"].params])
    check_values(constants(mod))
    for binding in bindings(mod["main"]):
        if operator_of(binding.value):
            owners.setdefault(str(binding.var.name), str(binding.var.name))
    return Imported(mod, owners, tuple(str(p.name) for p in mod["main"].params))


def _owners(main: relax.Function, params: dict[relax.Var, str]) -> dict[str, str]:
    """Bindings of operators with weights, named after the parameter they read (also through a permute_dims)."""
    owners: dict[str, str] = {}
    source = dict(params)
    for binding in bindings(main):
        value = binding.value
        if not isinstance(value, relax.Call):
            continue
        read = [source[a] for a in value.args if isinstance(a, relax.Var) and a in source]
        if operator_of(value) in ("permute_dims", "reshape", "astype") and read:
            source[binding.var] = read[0]
        elif operator_of(value) in PRINCIPAL[0] + PRINCIPAL[1] and read and not is_anonymous(read[0]):
            owners[str(binding.var.name)] = owner_of(read[0])
    return owners
