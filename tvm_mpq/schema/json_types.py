"""JSON that somebody else may have written, checked against types: TypedDicts, lists, dicts, and plain values."""

from __future__ import annotations

import json
import reprlib
import types
import typing
from typing import Any

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}
"""What JSON makes of each plain type, and how a message calls it."""


def parse(text: str) -> Any:
    """What the text holds. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def checked(value: Any, wanted: Any, where: str) -> Any:
    """The value as type `wanted` has it; keys that are numbers are numbers again.

    Raises ValueError that says where, and what it is instead. Keys that a TypedDict does not name are kept.
    """
    if wanted is Any:
        return value
    if wanted in KINDS:
        allowed, name = KINDS[wanted]
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
            raise _mismatch(where, name, value)
        return value
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        (wanted,) = (part for part in typing.get_args(wanted) if part is not types.NoneType)
        return None if value is None else checked(value, wanted, where)
    if typing.get_origin(wanted) is list:
        (part,) = typing.get_args(wanted)
        if not isinstance(value, list):
            raise _mismatch(where, "a list", value)
        return [checked(v, part, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, dict):
        raise _mismatch(where, "an object", value)
    if typing.is_typeddict(wanted):
        missing = sorted(wanted.__required_keys__ - value.keys())
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        parts = typing.get_type_hints(wanted)
        return {k: checked(v, parts.get(k, Any), f"{where}.{k}") for k, v in value.items()}
    key, part = typing.get_args(wanted)
    return {_key(k, key, where): checked(v, part, f"{where}.{k}") for k, v in value.items()}


def _key(text: str, wanted: type, where: str) -> Any:
    """JSON has only text for keys."""
    if wanted is str:
        return text
    try:
        return int(text)
    except ValueError:
        raise _mismatch(f"a key of {where}", "a whole number", text) from None


def _mismatch(where: str, name: str, value: Any) -> ValueError:
    return ValueError(f"{where} must be {name}, got {reprlib.repr(value)}")
