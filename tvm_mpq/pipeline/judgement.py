"""What the report says of the drop: how it was judged, what was close, and what images kept aside show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_mpq.calibrate.judge import TRAINED_ON, Judge
from tvm_mpq.execute.build_cache import Checked
from tvm_mpq.pipeline.options import Options
from tvm_mpq.report.contract import DropFigures, HeldFigures, Judgement, RivalPlan, TriedPlan, UndecidedPlan
from tvm_mpq.select.choose import effective_budget
from tvm_mpq.select.paired import CONFIDENCE, Interval, changes, images_needed
from tvm_mpq.select.quality import Tried, near_ties, nearest_uniform

SEARCHED = "a searched plan"


def judgement(
    options: Options,
    judge: Judge,
    chosen: Tried,
    tried: Sequence[Tried],
    rival: RivalPlan | None,
    classes: int | None = None,
) -> Judgement:
    """How plans were judged, for the report. classes: how many the network tells apart; None = it does not classify."""
    basis = judge.basis
    max_drop = effective_budget(options.budget).max_drop
    found: Judgement = {
        "data": options.judge,
        "images": basis.images,
        "fp32_right": basis.right,
        "fp32_sure": basis.sure,
        "classes": classes,
        "trained_on": basis.trained_on,
        "mixed_images": basis.mixed,
        "confidence": CONFIDENCE,
        "plans": judge.plans,
        "seconds": judge.seconds,
        "chosen": drop_figures(chosen.quality.drop),
        "undecided": None,
        "nearest": None,
        "rival": rival,
        "near_ties": [],
    }
    if max_drop is None:
        return found
    near = nearest_uniform(tried, max_drop)
    found["undecided"] = _undecided(chosen, tried, max_drop)
    if near is not None:
        found["nearest"] = {"name": near.name, "drop": drop_figures(near.quality.drop)}
    found["near_ties"] = [t.name or SEARCHED for t in near_ties(chosen, tried, max_drop)]
    return found


def warning(judge: Judge) -> str | None:
    """A line for the user when the images look trained on."""
    basis = judge.basis
    if not basis.trained_on:
        return None
    seen = f"fp32 is right on {basis.right:.1%}" if basis.right is not None else f"fp32 is {basis.sure:.1%} sure"
    instead = f"{basis.mixed} mixed pairs of them stand for new ones" if basis.mixed else "drops look too small"
    return (
        f"the {basis.images} images that plans are judged on look trained on ({seen}; {TRAINED_ON:.0%} is the sign): "
        f"{instead}; images kept aside judge better (--eval FILE --judge eval)"
    )


def drop_figures(drop: Interval) -> DropFigures:
    return {"estimate": drop.estimate, "low": drop.low, "high": drop.high, "images": drop.images}


def tried_plan(tried: Tried) -> TriedPlan:
    drop, solution = tried.quality.drop, tried.solution
    return {
        "predicted_ms": solution.latency_us / 1000,
        "loss": solution.loss,
        "drop": drop.estimate,
        "name": tried.name,
        "low": drop.low,
        "high": drop.high,
        "images": drop.images,
    }


def held(checked: Mapping[str, Checked]) -> dict[str, HeldFigures]:
    """What 8 bit and the chosen plan lose on the evaluation data, counted image by image beside fp32."""
    found: dict[str, HeldFigures] = {}
    for name in ("int8", "mixed"):
        counted = checked[name].accuracy
        if counted.metric != "relative_error":
            drop = changes(counted.better, counted.worse, counted.samples)
            found[name] = {**drop_figures(drop), "better": counted.better, "worse": counted.worse}
    return found


def _undecided(chosen: Tried, tried: Sequence[Tried], max_drop: float) -> UndecidedPlan | None:
    """The fastest plan, faster than the chosen one, of which the images do not tell whether it keeps the drop."""
    open_ones = [t for t in tried if t.quality.drop.low <= max_drop < t.quality.drop.high]
    faster = [t for t in open_ones if t.solution.latency_us < chosen.solution.latency_us]
    first = min(faster, key=lambda t: t.solution.latency_us, default=None)
    if first is None:
        return None
    return {
        "name": first.name or SEARCHED,
        "predicted_ms": first.solution.latency_us / 1000,
        "drop": drop_figures(first.quality.drop),
        "images_needed": images_needed(first.quality.drop, max_drop),
    }
