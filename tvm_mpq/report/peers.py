"""The comparison as a table on standard output."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from tvm_mpq.report.console import print_table, standard_output
from tvm_mpq.report.text import NOTHING

BASES = {
    "calm": "calm rounds",
    "alike": "rounds on a busy machine, both engines in the same state of it,",
    "all": "rounds on a busy machine",
}


def show_peers(report: dict[str, Any]) -> None:
    console = standard_output()
    for row in report["rows"]:
        _print_engines(console, row)
        for precision, ratio in row["ratios"].items():
            if ratio:
                r = ratio["ratio"]
                quartiles = f"quartiles {r['low']:.3f} to {r['high']:.3f}"
                basis = f"{ratio['rounds']} {BASES[ratio['basis']]} of {row['rounds']['taken']}"
                console.print(
                    f"  {precision}: {ratio['ours']} / {ratio['peer']} = {r['median']:.3f} ({quartiles}; {basis})"
                )
        for name, reason in row["skipped"].items():
            console.print(f"  without {name}: {reason}", style="dim")
        console.print()
    for name, reason in report["missing"].items():
        console.print(f"without {name}: {reason}", style="dim")
    m = report["machine"]
    load = " ".join(f"{v:.1f}" for v in m["load_average"])
    versions: dict[str, str] = {}
    for row in report["rows"]:
        for entry in row["engines"].values():
            versions |= entry["versions"]
    console.print(f"{m['cpu']} ({m['core_type']}), {m['cores']} cores, load {load} at the start")
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))


def _print_engines(console: Console, row: dict[str, Any]) -> None:
    headers = ("engine", "ms", "IQR", "to best peer", "first ms", "load ms", "agrees", "error", "top-1")
    engines = sorted(row["engines"].items(), key=lambda item: item[1].get("median_ms", 0.0))
    rows = []
    for name, entry in engines:
        rows.append(
            (
                name,
                f"{entry['median_ms']:.4g}",
                f"{100 * entry['iqr_ms'] / entry['median_ms']:.1f} %",
                f"{beside:.3f}" if (beside := entry.get("to_best_peer")) is not None else NOTHING,
                f"{entry['first_ms']:.1f}",
                f"{entry['load_ms']:.0f}",
                _share(entry.get("agreement")),
                f"{100 * entry['relative_error']:.2f} %" if "relative_error" in entry else NOTHING,
                _share(entry.get("top1"), percent=True),
            )
        )
    console.print(f"{row['network']}, {row['threads']} thread(s), batch 1; images: {row['images']}")
    emphasized = [i for i, (name, _) in enumerate(engines) if name.startswith("ours")]
    drop = ("load ms", "first ms", "IQR", "error", "agrees")
    print_table(console, headers, rows, right=headers[1:], drop=drop, emphasized=emphasized)


def _share(hits: list[int] | None, percent: bool = False) -> str:
    if hits is None:
        return NOTHING
    return f"{hits[0]}/{hits[1]}" + (f" = {100 * hits[0] / hits[1]:.2f} %" if percent else "")
