"""How fine-tuning went, in words."""

from __future__ import annotations

from tvm_mpq.report.answers import BuildReport
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.text import number


def facts(report: OptimizeReport | BuildReport) -> list[tuple[str, str]]:
    """One row, or none where weights did not learn."""
    found = report.get("finetune")
    if found is None:
        return []
    hits, loss = found["hits"], found["loss"]
    words = f"{hits['before']} -> {hits['after']} of {found['held']} samples kept aside right (fp32: {hits['fp32']})"
    loss_words = f"loss {number(loss['before'])} -> {number(loss['after'])}"
    text = f"epoch {found['kept']} of {found['epochs']} was best: {words}, {loss_words}"
    seconds = found["seconds_per_epoch"]
    return [("learned", f"{text}; {number(seconds)} s an epoch" if seconds else text)]
