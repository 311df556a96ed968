"""What a result stands on: versions, and digests of model, data and plan."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import tvm

from tvm_mpq.calibrate.data import Dataset
from tvm_mpq.pipeline.context import RunContext
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.contract import Provenance
from tvm_mpq.schema import Plan


def provenance(context: RunContext, data: Dataset, eval_data: Dataset, plan: Plan) -> Provenance:
    """Digests are sha256, shortened; the plan's is of its precisions, its formats and its ranges."""
    text = json.dumps([plan.operators, plan.formats, repr(sorted(plan.tensors.items()))], sort_keys=True)
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": context.options.command,
        "eval_file": _eval_file(context.options),
        "versions": {
            "tvm-mpq": importlib.metadata.version("tvm-mpq"),
            "TVM": tvm.__version__,
            "Python": platform.python_version(),
            "NumPy": np.__version__,
            "system": platform.platform(),
        },
        "digests": {
            "model": context.prepared.loaded.fingerprint[:16],
            "calibration data": data.fingerprint,
            "evaluation data": eval_data.fingerprint,
            "plan": hashlib.sha256(text.encode()).hexdigest()[:16],
        },
    }


def _eval_file(options: Options) -> str:
    given = options.data if options.eval_data is None else options.eval_data
    return str(given) if isinstance(given, (str, Path)) else ""
