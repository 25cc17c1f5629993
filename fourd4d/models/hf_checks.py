"""What the families' readers of ``config.json`` look for alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fourd4d.core.errors import InputError

_COUNTS = ("_size", "_layers", "heads", "depth", "_channels", "head_dim", "_position_embeddings")
_NUMBERS = ("rms_norm_eps", "rope_theta", "tokens_per_second")


def ties_head(value: Mapping[str, Any], text: Mapping[str, Any], where: object) -> bool:
    """Whether the head is the embedding table: writers say so at either place.

    Raises InputError where it is neither true nor false.
    """
    ties = [part.get("tie_word_embeddings") for part in (value, text)]
    if not {*map(type, ties)} <= {bool, type(None)}:
        raise InputError(where, f"tie_word_embeddings is {ties[0] or ties[1]!r}",
                         "Set it to true or false")
    return any(ties)


def rotary(d: Mapping[str, Any]) -> Mapping[str, Any]:
    """The decoder's ``rope_scaling``; empty where there is none."""
    return d["rope_scaling"] if isinstance(d["rope_scaling"], dict) else {}


def check_numbers(d: Mapping[str, Any], v: Mapping[str, Any], layers: str, where: object) -> None:
    """Raise InputError, naming all of them, on fields of a wrong type or range.

    Args:
      d, v: fields of the decoder and of the encoder.
      layers: the encoder's field that lists some of its layers.
    """
    problems = []
    for name, part in (("decoder", d), ("vision_config", v)):
        problems += [f"{name} {key} is {part[key]!r}, not a positive integer"
                     for key in part if key.endswith(_COUNTS)
                     and not (key == "num_key_value_heads" and part[key] is None)
                     and (type(part[key]) is not int or part[key] <= 0)]
        problems += [f"{name} {key} is {part[key]!r}, not a positive number"
                     for key in _NUMBERS if key in part
                     and (type(part[key]) not in (int, float) or not 0 < part[key] < math.inf)]
    for name, found in ((layers, v[layers]),
                        ("mrope_section", rotary(d).get("mrope_section", ()))):
        if not isinstance(found, list | tuple) or not all(
                type(n) is int and n >= 0 for n in found):
            problems.append(f"{name} is {found!r}, not a list of integers from 0")
    if problems:
        raise InputError(where, "; ".join(problems), "Fix the config")


def width_problems(d: Mapping[str, Any], v: Mapping[str, Any], head_dim: int) -> list[str]:
    """What does not fit together: the encoder's output, and the rotary sections."""
    problems, rope = [], rotary(d)
    if v["out_hidden_size"] != d["hidden_size"]:
        problems.append(f"vision out_hidden_size {v['out_hidden_size']} is not the decoder's "
                        f"hidden_size {d['hidden_size']}")
    if "mrope_section" not in rope:
        return [*problems, "rope_scaling has no mrope_section"]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        problems.append(f"rope_scaling type {kind!r} is not supported")
    if len(rope["mrope_section"]) != 3 or 2 * sum(rope["mrope_section"]) != head_dim:
        problems.append(f"mrope_section {rope['mrope_section']} does not sum to half the head "
                        f"width {head_dim}")
    return problems
