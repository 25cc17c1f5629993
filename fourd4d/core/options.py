"""The options of a question, as callers give them and as the prompt says them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.sample import LETTERS, option_text

Options = Iterable[Any] | Mapping[str, Any]
"""Texts or numbers, lettered A, B, …; of a mapping, its keys stand in place of letters."""


def checked_options(options: Options) -> tuple[list[str], list[str]]:
    """Return what each option is called in the prompt and the answer, and its text.

    Raises InputError for options that are no texts or numbers, too many, or called the same.
    """
    ordered = isinstance(options, Iterable) and not isinstance(options, str | bytes | Set)
    if not ordered:
        raise InputError("options", f"{options!r} is not a list", "Give a list of texts")
    given = options.values() if isinstance(options, Mapping) else options
    texts = [_text(value, number) for number, value in enumerate(given, 1)]
    if len(texts) > len(LETTERS):
        raise InputError("options", f"there are {len(texts)}", f"Give {len(LETTERS)} at most")
    if not isinstance(options, Mapping):
        return list(LETTERS[: len(texts)]), texts
    keys = [option_text(key, "options", f"key {key!r}") for key in options]
    if len(set(keys)) < len(keys):
        raise InputError("options", f"two keys are the same: {keys}", "Make the keys differ")
    pairs = list(zip(keys, texts, strict=True))
    if set(keys) <= set(LETTERS):
        pairs.sort()
    return [key for key, _ in pairs], [text for _, text in pairs]


def _text(value: Any, number: int) -> str:
    if isinstance(value, bool | np.bool_):
        raise InputError("options", f"option {number} is {value}", "Give it a text or a number")
    return option_text(value, "options", f"option {number}")


def with_options(question: str, keys: Sequence[str], texts: Sequence[str]) -> str:
    """Return the question with its options below it."""
    lines = [f"{key}. {text}" for key, text in zip(keys, texts, strict=True)]
    return "\n\n".join([question, "\n".join(lines)]) if lines else question
