"""Reading an answer out of a response: strictly for rewards and scores, leniently beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fourd4d.core.sample import LETTERS
from fourd4d.processing.tokenizer import LATENT_END, LATENT_PAD, LATENT_START

_BLOCK = re.compile(
    rf"{re.escape(LATENT_START)}(?:{re.escape(LATENT_PAD)})*{re.escape(LATENT_END)}")
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TEXT = r"(?:(?!</?(?:think|answer)>|<\|).)*"
_FORMAT = re.compile(
    rf"\s*<think>(?P<think>{_TEXT})</think>\s*<answer>(?P<answer>{_TEXT})</answer>\s*", re.DOTALL)
_LETTER = re.compile(
    r"(?:(?P<marked>\([A-H]\)[.:]?|[A-H][.:)])|(?P<bare>[A-H]))(?:\s+(?P<rest>.*))?", re.DOTALL)
_BARE = re.compile(r"\(?([A-H])(?:\)[.:]?|[.:])?")
_MARKED = re.compile(r"(?:\(([A-H])\)|([A-H])[.):])(?:\s|$)")
_STATED = re.compile(
    r"\b(?i:(?:answer|option|choice)\b(?:\s+(?:is|would be|must be))?\s*[:=]?\s*(?:option\s+)?)"
    r"\**\(?([A-H])\b(?!['’])")


def strip_latents(text: str) -> str:
    """The text without its mental images."""
    return _BLOCK.sub("", text)


def well_formed(text: str) -> bool:
    """Whether the whole response is ``<think>…</think><answer>…</answer>``, neither part empty.

    Mental images are taken out first; white space may stand between the parts and around them.
    """
    match = _FORMAT.fullmatch(strip_latents(text))
    return bool(match and match["think"].strip() and match["answer"].strip())


def parse_answer(text: str, options: Sequence[str]) -> str | None:
    """The letter that the response answers, or None.

    Read is the last ``<answer>`` after ``</think>``. It must hold an option's letter (alone, or
    marked as one by ``.``, ``:`` or brackets, with any text after it), or exactly an option's
    text, or letter and text. ``Based on …`` is no B; a letter with the text of another option is
    no answer.
    """
    _, think_end, tail = strip_latents(text).partition("</think>")
    found = _ANSWER.findall(tail) if think_end else []
    return _read(found[-1], options) if found else None


def _read(content: str, options: Sequence[str]) -> str | None:
    content = content.strip()
    texts = [option.strip() for option in options]
    if content in texts and content:
        return LETTERS[texts.index(content)]
    match = _LETTER.fullmatch(content)
    if not match:
        return None
    letter, rest = (match["marked"] or match["bare"]).strip("().:"), (match["rest"] or "").strip()
    if letter not in LETTERS[: len(texts)]:
        return None
    if not rest or rest == texts[LETTERS.index(letter)]:
        return letter
    return letter if match["marked"] and rest not in texts else None


def lenient_answer(text: str, options: Sequence[str]) -> str | None:
    """The answer a patient reader would take from the response, or None.

    Tried in turn: the strict reading; the last ``<answer>`` anywhere; a response that begins with
    a marked letter or is a letter; "the answer is B"; the one option whose text it contains.
    A bare capital letter inside a sentence is never an answer.
    """
    text = strip_latents(text)
    strict = parse_answer(text, options)
    if strict:
        return strict
    allowed = LETTERS[: len(options)]
    tail = text.rpartition("</think>")[2].strip()
    for content in reversed(_ANSWER.findall(text)):
        letter = _read(content, options)
        if letter:
            return letter
        tail = content.strip()
        break
    if tail.strip() in (option.strip() for option in options):
        return _read(tail, options)
    bare = _BARE.fullmatch(tail)
    marked = _MARKED.match(tail)
    stated = _STATED.findall(tail)
    if bare:
        letter = bare[1]
    elif marked:
        letter = marked[1] or marked[2]
    elif stated:
        letter = stated[-1]
    else:
        named = _named(tail, options)
        return LETTERS[named[0]] if len(named) == 1 else None
    return letter if letter in allowed else None


def _named(text: str, options: Sequence[str]) -> list[int]:
    """Options named in the text; one inside a longer one that is named does not count."""
    lowered = text.casefold()
    order = sorted(range(len(options)), key=lambda i: -len(options[i]))
    named = []
    for i in order:
        option = options[i].strip().casefold()
        pattern = re.compile(rf"(?<![\w-]){re.escape(option)}(?![\w-])")
        if option and pattern.search(lowered):
            named.append(i)
            lowered = pattern.sub(" ", lowered)
    return named
