"""For the site's reference: functions whose keywords are spelled out when they are imported are shown so.

mkdocstrings reads sources. `tvm_mpq.keywords.spelled_out` makes signatures and docstrings when the program runs; here
they are asked of the function. Importing `tvm_mpq` does not import TVM.
"""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import tvm_mpq


class SpelledOut(griffe.Extension):
    """Replaces `**options` in the functions of `tvm_mpq.api` by the keywords that it stands for."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Called for every function that is read; those without `**options` are left alone."""
        if func.parent is None or func.parent.path != "tvm_mpq.api" or "options" not in func.parameters:
            return
        function = getattr(tvm_mpq, func.name)
        own = [p for p in func.parameters if p.name != "options"]
        more = [
            griffe.Parameter(p.name, annotation=p.annotation, kind=griffe.ParameterKind.keyword_only, default="...")
            for p in inspect.signature(function).parameters.values()
            if p.name not in func.parameters
        ]
        func.parameters = griffe.Parameters(*own, *more)
        if func.docstring is not None:
            func.docstring.value = inspect.getdoc(function) or ""
