"""The options of a question: as they are given, as keys name them, as the prompt says them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.sample import LETTERS, option_text

Options = Iterable[Any] | Mapping[str, Any]
"""Texts or numbers, lettered A, B, …; of a mapping, its keys stand in place of letters."""
BARE = re.compile(r"[(\[（【]?([A-Za-zＡ-Ｚａ-ｚ])[)\].:）】．：、]*")
"""A letter alone, with or without a mark, ASCII or full-width."""
MARKED = re.compile(r"[(\[（【]?([A-Za-zＡ-Ｚａ-ｚ])[)\].:）】．：、]{1,2}\s*(.*)", re.DOTALL)
"""A letter with its mark, and what follows."""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")
_TRUTHS = {"yes": True, "true": True, "no": False, "false": False}


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


def ascii_letter(text: str) -> str:
    """The capital ASCII letter that a letter is, full-width or small: what it is compared by."""
    return unicodedata.normalize("NFKC", text).strip().upper()


def unlettered(texts: Sequence[str], where: object) -> tuple[str, ...]:
    """Options without the letters that they bear themselves ("A. Left"), where each bears its own.

    Raises InputError, naming ``where``, where only some have a text beside their letter.
    """
    own = [MARKED.fullmatch(text) for text in texts]
    if "".join(ascii_letter(m[1]) for m in own if m) != LETTERS[: len(own)] or not any(
            m[2].strip() for m in own if m):  # "A.", "B.", … are what those options say.
        return tuple(texts)
    return tuple(option_text(m[2], where, f"option {letter} without its letter")
                 for letter, m in zip(LETTERS, own, strict=False) if m)


def letters_of(said: str, options: Sequence[str]) -> tuple[str, ...]:
    """The letters of the options whose text a key is; of the first of these rules that finds any.

    The same words, but for case, spaces and a final point; the same truth value ("True" means
    "Yes"); the same number ("2.0" means "2").
    """
    for form in (plain_text, _truth, _number):
        wanted = form(said)
        found = tuple(letter for letter, option in zip(LETTERS, options, strict=False)
                      if wanted is not None and form(option) == wanted)
        if found:
            return found
    return ()


def plain_text(text: str) -> str:
    """A text but for case, spaces and a final point."""
    return " ".join(text.split()).casefold().rstrip(".")


def _truth(text: str) -> bool | None:
    return _TRUTHS.get(plain_text(text))


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text := text.strip()) else None


def by_letter(options: Mapping[Any, Any], where: object) -> dict[str, Any]:
    """Options by the letters that their keys mean, whatever their case.

    Raises InputError, naming ``where``, where two keys mean one letter.
    """
    letters = [ascii_letter(str(key)) for key in options]
    if len(set(letters)) < len(letters):
        raise InputError(where, f"two options have one letter: {', '.join(sorted(letters))}",
                         "Letter them A, B, C, …")
    return dict(zip(letters, options.values(), strict=True))
