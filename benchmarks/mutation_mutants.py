"""Draws mutants of Python files as lines of JSON; run by `mutation.py` with the Python that has cosmic-ray.

    python benchmarks/mutation_mutants.py COUNT SEED FILE...        COUNT 0: all

Left out are replacements that Python nearly always refuses by type, such as a shift of a float, and those of `is` by
`==`, which seldom mean anything: they would lift the score without a test behind it. So are changes of annotations,
which are not evaluated. A mutant's place in the draw depends on itself alone: a change elsewhere leaves the sample.
"""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ARITHMETIC, BITS = "(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)", "(RShift|LShift|BitOr|BitAnd|BitXor)"
SELDOM = re.compile(
    f"core/ReplaceBinaryOperator_({ARITHMETIC}_({BITS}|Mod|Pow)|{BITS}_{ARITHMETIC})$"
    "|core/ReplaceComparisonOperator_((Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot)|(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE))$"
)


def annotations(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last position of each."""
    found = []
    for node in ast.walk(ast.parse(code)):
        for name in ("annotation", "returns"):
            if (annotation := getattr(node, name, None)) is not None:
                start = (annotation.lineno, annotation.col_offset)
                found.append((start, (annotation.end_lineno, annotation.end_col_offset)))
    return found


def places(path: str) -> Iterator[dict]:
    code = Path(path).read_text()
    lines, left_out = code.splitlines(), annotations(code)
    nodes = list(ast_nodes(get_ast(code)))
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if SELDOM.match(name) or operator.arguments():  # the latter need to be told a variable's name
            continue
        found = (start for node in nodes for start, _ in operator().mutation_positions(node))
        times: dict[str, int] = {}
        for occurrence, place in enumerate(found):
            if any(start <= tuple(place) < end for start, end in left_out):
                continue
            line = lines[place[0] - 1].strip()
            if name == "core/ExceptionReplacer" and "." in line:
                continue  # cosmic-ray fails at names with a dot
            times[line] = times.get(line, 0) + 1  # equal lines are told apart by their order
            key = f"{path} {name} {line} {times[line]}"
            yield {"file": path, "operator": name, "line": place[0], "key": key, "occurrence": occurrence}


def main() -> None:
    count, seed, *paths = sys.argv[1:]
    found = [place for path in paths for place in places(path)]
    found.sort(key=lambda place: hashlib.sha256(f"{seed} {place['key']}".encode()).hexdigest())
    kept, invalid = [], 0
    for place in found:
        if count != "0" and len(kept) == int(count):
            break
        kind = get_operator(place["operator"])
        source = mutate_code(Path(place["file"]).read_text(), kind(), place.pop("occurrence"))
        try:
            compile(source, place["file"], "exec")
        except SyntaxError:  # such as the star before named arguments turned into another operator
            invalid += 1
        else:
            kept.append({**place, "source": source})
    print(len(found) - invalid)
    print("\n".join(map(json.dumps, kept)))


if __name__ == "__main__":
    main()
