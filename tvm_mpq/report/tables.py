"""Reports as tables on standard output.

In one file: each command has one table, and they share their columns.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from tvm_mpq.report import condition, judging, learning, other_engines, summary, text
from tvm_mpq.report.answers import (
    BuildReport,
    CompareReport,
    DoctorReport,
    InspectReport,
    OperatorLosses,
    RunReport,
    SearchReport,
    SensitivityReport,
    TuneReport,
)
from tvm_mpq.report.console import print_facts, print_indented, print_notes, print_table, standard_output
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.report.text import number, one_line, percent
from tvm_mpq.schema import LeftOutReason


def show_optimize(report: OptimizeReport) -> None:
    """fp32, uniform 8 bit and mixed in one table; below it, how the plan was found."""
    console = standard_output()
    where = f"{report.get('model', 'network')} on {report.get('device', 'this device')}"
    console.print(one_line(where))
    sizes = ("library", "weights", "tensors")
    headers = ("network", summary.metric(report), "latency ms", "predicted ms", *sizes, "speed vs 8 bit")
    rows = [
        (r.name, r.accuracy, r.measured, r.predicted, r.size, r.weights, r.memory, r.speedup)
        for r in summary.network_rows(report)
    ]
    print_table(console, headers, rows, right=headers[1:], drop=("tensors", "library", "predicted ms", "weights"))
    limits = summary.limits(report)
    facts = [
        ("budget", "; ".join(map(str, limits))),
        ("plan", summary.plan_counts(report.get("plan", {}))),
        *judging.facts(report),
        ("faster than 8 bit?", summary.mixed_answer(report)),
        ("8 bit faster than fp32?", summary.int8_answer(report)),
        *other_engines.facts(report),
        ("solver", summary.solver_line(report)),
        ("latency entries", summary.entries_line(report.get("latency_entries", {}))),
        ("threads", str(report.get("threads", ""))),
        ("import", summary.import_check(report)),
        *learning.facts(report),
        *condition.facts(report),
        *_artifacts(report),
    ]
    print_facts(console, facts)
    print_notes(console, summary.cautions(report))


def _artifacts(report: OptimizeReport | BuildReport) -> list[tuple[str, str]]:
    return [(name, str(path)) for name, path in report.get("artifacts", {}).items()]


def show_inspect(report: InspectReport) -> None:
    """Operators in order, then totals."""
    console = standard_output()
    print_facts(
        console,
        [
            ("model", report["model"]),
            ("target", report["target"]),
            *((f"input {name}", f"{dtype}{list(shape)}") for name, (shape, dtype) in report["inputs"].items()),
        ],
    )
    headers = ("operator", "kind", "output", "MACs", "parameters", "candidates", "workload")
    rows = [
        (
            o["name"],
            o["kind"],
            "x".join(map(str, o["shape"])),
            text.count(o["macs"]) if o["macs"] else "",
            text.count(o["parameters"]) if o["parameters"] else "",
            " ".join(o["candidates"]),
            text.workload(o["workload"]),
        )
        for o in report["operators"]
    ]
    print_table(console, headers, rows, right=("MACs", "parameters"), drop=("workload", "parameters", "MACs", "output"))
    totals = report["totals"]
    console.print(
        f"{totals['operators']} operators, {totals['quantizable']} quantizable, {text.count(totals['macs'])} MACs, "
        f"{text.count(totals['parameters'])} parameters",
    )
    print_notes(console, [*left_out(report), *report.get("notes", [])])


LEFT_OUT = {
    LeftOutReason.SAME_CODE: "there they would run the same code as more bits on this target, and only lose accuracy",
    LeftOutReason.SLOWER: "there floats are as fast on this target",
    LeftOutReason.NO_KERNEL: "there this target has no kernel for them",
}


def left_out(report: InspectReport) -> list[str]:
    """For each reason one line: which precisions are no candidates of how many operators."""
    lines = []
    for reason, words in LEFT_OUT.items():
        found = [row for row in report.get("left_out", []) if row["reason"] == reason]
        shown = ", ".join(f"{row['precision']} ({row['operators']})" for row in found)
        lines += [f"left out, and of how many operators: {shown}: {words}"] if found else []
    return lines


def show_tune(report: TuneReport) -> None:
    """What tuning found, greatest gain in the network first."""
    console = standard_output()
    console.print(one_line(f"{report['model']} on {report['device']}"))
    headers = ("workload", "precision", "uses", "default us", "best us", "gain", "kernel")
    rows = [
        (
            text.workload(row["workload"]),
            row["precision"],
            str(row["uses"]),
            number(row["default_us"]),
            number(row["best_us"]),
            percent(1 - row["best_us"] / row["default_us"]),
            f"{row['family']} {row['knobs']}",
        )
        for row in report["tuned"]
    ]
    if rows:
        print_table(console, headers, rows, right=headers[2:6], drop=("kernel", "uses", "default us"))
    sums = report["sum_ms"]
    left = report["candidates_left"]
    print_facts(
        console,
        [
            ("candidates", f"{report['trials']} measured in {number(report['seconds'], ' s')}, {left} left"),
            ("ended", report["ended"]),
            ("sum of all kernels", f"{number(sums['before'], ' ms')} before, {number(sums['after'], ' ms')} after"),
            ("latency entries", summary.entries_line(report["latency_entries"])),
            *condition.facts(report),
        ],
    )
    print_notes(console, condition.cautions(report))


def show_sensitivity(report: SensitivityReport) -> None:
    """Loss of every operator at every precision, the most sensitive operator first."""
    console = standard_output()
    kind = {"kl": "KL divergence to fp32 at temperature 4, nats", "mse": "squared error relative to fp32"}[
        report["metric"]
    ]
    console.print(f"{one_line(report['model'])}: {kind}, {report['samples']} samples")
    found = {label for o in report["operators"] for label in o["losses"]}
    labels = summary.by_falling_bits(found)

    def worst(operator: OperatorLosses) -> float:
        return max((entry["loss"] for entry in operator["losses"].values()), default=0.0)

    rows = [
        (
            o["name"],
            *(number(o["losses"][label]["loss"]) if label in o["losses"] else text.NOTHING for label in labels),
            text.workload(o["workload"]),
        )
        for o in sorted(report["operators"], key=worst, reverse=True)
    ]
    print_table(console, ("operator", *labels, "workload"), rows, right=labels, drop=("workload", *labels[:-1]))
    synthetic = ["synthetic data: give real data with --data"] if report["synthetic"] else []
    print_notes(console, [*synthetic, *condition.cautions(report)])


SIMULATED = "costs are simulated ({}), nothing of them was measured here"


def show_search(report: SearchReport) -> None:
    """The front by ascending cost; plans that another one beats are marked."""
    console = standard_output()
    console.print(f"{one_line(report['model'])}: {report['axis']} against loss, by {report['method']}")
    energies = any(point["energy_mj"] is not None for point in report["points"])
    costs = ["latency ms", "weights MB", *(["energy mJ"] if energies else []), "loss"]
    headers = ("plan", *costs, "operators", "")
    rows = [
        (
            point["name"] or f"front {i}",
            number(point["latency_ms"]),
            number(point["size_mb"]),
            *([number(point["energy_mj"])] if energies else []),
            number(point["loss"]),
            summary.plan_counts(point["plan"]),
            Text("dominated", "dim") if point["dominated"] else "",
        )
        for i, point in enumerate(report["points"], 1)
    ]
    print_table(console, headers, rows, right=costs, drop=("operators",))
    print_notes(console, condition.cautions(report))
    if report["latency_source"] == "measured":
        console.print("latencies are predicted from the table of measured kernels; optimize measures the whole network")
    else:
        console.print(SIMULATED.format(report["latency_source"]))
    print_facts(console, [("latency entries", summary.entries_line(report["latency_entries"]))])


def show_compare(report: CompareReport) -> None:
    """A line a method and budget; what was not asked for has no column."""
    console = standard_output()
    what = " with free bits" if report["free_bits"] else ""
    console.print(f"{one_line(report['model'])}: search methods{what}, seed {report['seed']}")
    rows = report["rows"]
    measured = any(row["measured_ms"] is not None for row in rows)
    judged = [summary.metric_name(report["metric"])] if report["metric"] else []
    energies = report["int8_mj"] is not None
    headers = ["method", "budget", "loss", "gap to bound", "predicted ms", *(["energy mJ"] if energies else [])]
    headers += ["measured ms"] if measured else []
    headers += [*judged, *(["held loss"] if judged else []), "evaluations", "seconds", "operators"]
    print_table(
        console,
        headers,
        [
            (
                row["method"],
                number(row["budget"]),
                number(row["loss"]),
                percent(row["gap"]),
                number(row["predicted_ms"]),
                *([number(row["energy_mj"])] if energies else []),
                *([number(row["measured_ms"])] if measured else []),
                *([number(row["accuracy"], " %"), number(row["held_loss"])] if judged else []),
                str(row["evaluations"] or ""),
                number(row["seconds"]),
                summary.plan_counts(row["plan"]) if row["plan"] else "no plan",
            )
            for row in rows
        ],
        right=headers[1:-1],
        drop=("seconds", "evaluations", "operators", "loss"),
    )
    print_notes(console, summary.without_plan(rows))
    print_notes(console, report["disagreements"])
    print_notes(console, condition.cautions(report))
    for fixed in report["uniform"]:
        time = "" if fixed["predicted_ms"] is None else f"{number(fixed['predicted_ms'])} ms predicted, "
        accuracy = f"{number(fixed['accuracy'], ' %')}, held loss {number(fixed['held_loss'])}"
        console.print(f"uniform {fixed['precision']}: {time}{accuracy}")
    console.print(
        f"budgets are shares of the {report['axis']} of uniform 8 bit, {_int8(report)} predicted; losses are the "
        "table's sums; the bound is the solver's: no plan within the budget loses less",
    )
    if report["latency_source"] != "measured":
        console.print(SIMULATED.format(report["latency_source"]))
    print_facts(console, [("latency entries", summary.entries_line(report["latency_entries"]))])


def _int8(report: CompareReport) -> str:
    energy = "" if report["int8_mj"] is None else f" and {number(report['int8_mj'], ' mJ')}"
    return number(report["int8_ms"], " ms") + energy


def show_build(report: BuildReport) -> None:
    """What was built, and where it is."""
    print_facts(
        standard_output(),
        [
            ("model", report["model"]),
            ("target", report["target"]),
            ("plan", summary.plan_counts(report["plan"])),
            ("library", text.size(report["size_bytes"])),
            ("weights", text.size(report["weight_bytes"])),
            ("tensors", text.size(report.get("activation_bytes"))),
            ("import", summary.import_check(report)),
            *learning.facts(report),
            *_artifacts(report),
        ],
    )


def show_run(report: RunReport) -> None:
    """Latency, accuracy and difference of a built folder."""
    latency, found, difference = report["latency_ms"], report.get("accuracy"), report.get("difference")
    words = f"none: {report.get('unsteady', '')}; repeat when nothing else runs on the machine"
    if latency is not None:
        threads = f"{latency['threads']} thread{'s' if latency['threads'] > 1 else ''}"
        words = f"{number(latency['median'], ' ms')} (IQR {number(latency['iqr'])}), {threads}"
    facts = [
        ("folder", report["folder"]),
        ("latency", words),
        ("load", number(report.get("load_ms"), " ms")),
        ("first run", number(report.get("first_run_ms"), " ms")),
        ("samples", str(report["samples"])),
    ]
    if found:
        words = summary.accuracy_text(found["metric"], found["value"], found["hits"], found["samples"])
        facts.append((summary.metric_name(found["metric"]), words))
    else:
        facts.append(("accuracy", "not known: needs an array `labels` in the data, or another folder as --reference"))
    if difference:
        largest, mean = number(difference["largest_absolute"]), percent(difference["mean_relative_norm"])
        facts.append(("difference", f"largest {largest}, mean relative norm {mean}"))
    print_facts(standard_output(), facts)
    calls = sorted(report.get("profile", []), key=lambda call: -call["us"])
    if calls:
        total = max(sum(call["us"] for call in calls), 1e-9)
        rows = [(c["operator"], c["kernel"], number(c["us"]), percent(c["us"] / total)) for c in calls]
        print_table(standard_output(), ("operator", "kernel", "us", "share"), rows, right=("us", "share"))


def show_targets(report: dict[str, Any]) -> None:
    """One row per target."""
    headers = ("target", "runs here", "cores", "L1d/L2/L3", "features", "source")
    rows = []
    for row in report["targets"]:
        caches = row["caches"]
        here: str | Text = Text("yes", "green") if row["runs_here"] else f"no: lacks {', '.join(row['lacking'])}"
        rows.append(
            (
                " = ".join([row["name"], *row["aliases"]]),
                here,
                str(row["cores"]),
                "/".join(text.cache(caches[level]) for level in ("l1d_bytes", "l2_bytes", "l3_bytes")),
                " ".join(row["features"]),
                row["source"],
            )
        )
    print_table(standard_output(), headers, rows, right=("cores",), drop=("source", "features", "L1d/L2/L3", "cores"))


def show_doctor(report: DoctorReport) -> None:
    """One line per check, and below it how to mend what is not well."""
    console = standard_output()
    styles = {"ok": "green", "warning": "yellow", "missing": "red"}
    for check in report["checks"]:
        status = Text(f"{check['status']:<7}", styles[check["status"]])
        print_indented(console, status, f"{check['name']}: {one_line(check['detail'])}")
        if check["mend"] and check["status"] != "ok":
            print_indented(console, Text(f"{'':7} ->"), one_line(check["mend"]))
