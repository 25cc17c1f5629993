"""Reading an answer out of a response: strictly for rewards and scores, leniently beside them."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from fourd4d.core.sample import LETTERS
from fourd4d.processing.lenient_answers import lenient_letter
from fourd4d.processing.tokenizer import LATENT_END, LATENT_PAD, LATENT_START

_BLOCK = re.compile(
    rf"{re.escape(LATENT_START)}(?:{re.escape(LATENT_PAD)})*{re.escape(LATENT_END)}")
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TEXT = r"(?:(?!</?(?:think|answer)>|<\|).)*"
_FORMAT = re.compile(
    rf"\s*<think>(?P<think>{_TEXT})</think>\s*<answer>(?P<answer>{_TEXT})</answer>\s*", re.DOTALL)
_OPENED = re.compile(r"<answer>((?:(?!</?answer>).)*)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def strip_latents(text: str) -> str:
    """The text without its mental images."""
    return _BLOCK.sub("", text)


def tagged_answer(text: str) -> str | None:
    """What stands in the last ``<answer>`` tags, as it is written; None where there are none."""
    found = _ANSWER.findall(text)
    return found[-1] if found else None


def well_formed(text: str) -> bool:
    """Whether the whole response is ``<think>…</think><answer>…</answer>``, neither part empty.

    Mental images are taken out first; white space may stand between the parts and around them.
    """
    match = _FORMAT.fullmatch(strip_latents(text))
    return bool(match and match["think"].strip() and match["answer"].strip())


def parse_answer(text: str, options: Sequence[str], letters: Sequence[str] = LETTERS) -> str | None:
    """The letter that the response answers, or None: the strict reading.

    Read is the last ``<answer>`` after ``</think>``. It must hold an option's letter (alone, or
    marked as one by ``.``, ``:`` or brackets), exactly an option's text, or both. Letter and text
    must agree; case, spaces and a final point do not count, and after a comma or point a remark may
    follow that names no other option. A letter alone is that option's even where it is the text of
    another. ``Based on …`` is not a B.

    Args:
      letters: what the options are called, as many as there are options or more.
    """
    _, think_end, tail = strip_latents(text).partition("</think>")
    found = _ANSWER.findall(tail) if think_end else []
    return _read(found[-1], options, letters) if found else None


def _read(content: str, options: Sequence[str], letters: Sequence[str]) -> str | None:
    content = content.strip()
    own = dict(zip(letters, (option.strip() for option in options), strict=False))
    match = _lettered(tuple(own)).fullmatch(content)
    if match and not match["rest"]:
        return match["marked"] or match["bracketed"] or match["bare"]
    same = [letter for letter, text in own.items() if text and text == content]
    if same:
        return same[0] if len(same) == 1 else None
    if not match:
        return None
    letter = match["marked"] or match["bracketed"] or match["bare"]
    rest = match["rest"]
    if _folded(rest) == _folded(own[letter]):
        return letter
    remark = re.match(rf"{_spaced(own[letter])}\s*[,.;:(–—-]\s", rest, re.IGNORECASE)
    if not remark or match["bare"]:
        return None
    others = [text for text in own.values() if text and _folded(text) != _folded(own[letter])]
    named = [rf"(?<![\w-]){_spaced(text)}(?![\w-])" for text in others]
    marks = [rf"(?<![\w-]){re.escape(name)}[.):]" for name in own if name != letter]
    others_named = re.search("|".join([*named, *marks]) or "$^", rest[remark.end() - 1 :],
                             re.IGNORECASE)
    return None if others_named else letter


@functools.lru_cache(maxsize=256)
def _lettered(letters: tuple[str, ...]) -> re.Pattern[str]:
    one = "|".join(map(re.escape, sorted(letters, key=len, reverse=True))) or "$^"
    return re.compile(rf"(?:\((?P<bracketed>{one})\)[.:]?|(?P<marked>{one})[.:)]|(?P<bare>{one}))"
                      r"(?:\s+(?P<rest>.*))?", re.DOTALL)


def _spaced(text: str) -> str:
    return r"\s+".join(map(re.escape, text.split()))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(" .,;:!")


def lenient_answer(text: str, options: Sequence[str]) -> str | None:
    """The answer that a patient reader would take from the response, or None.

    Tried in turn: the strict reading; the last ``<answer>`` that holds something, closed or not;
    what follows ``</think>``; the thinking, where nothing follows it. How each is read:
    ``lenient_answers``. A letter with another option's text stays without an answer here too.
    """
    letters = LETTERS[: len(options)]
    text = strip_latents(text)
    strict = parse_answer(text, options)
    if strict or not options:
        return strict
    filled = [content for content in _OPENED.findall(text) if content.strip()]
    tail = text.rpartition("</think>")[2]
    region = filled[-1] if filled else tail if _TAG.sub("", tail).strip() else text
    return (_read(region, options, letters)
            or lenient_letter(_TAG.sub(" ", region), options, letters))
