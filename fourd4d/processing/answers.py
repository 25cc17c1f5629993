"""Reading an answer out of a response: strictly for rewards and scores, leniently beside them."""

from __future__ import annotations

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
_LETTER = re.compile(
    r"(?:(?P<marked>\([A-J]\)[.:]?|[A-J][.:)])|(?P<bare>[A-J]))(?:\s+(?P<rest>.*))?", re.DOTALL)
_OPENED = re.compile(r"<answer>((?:(?!</?answer>).)*)(?:</answer>|$)", re.DOTALL)


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
    """Return the letter that the response answers, or None: the strict reading.

    Read is the last ``<answer>`` after ``</think>``. It must hold an option's letter (alone, or
    marked as one by ``.``, ``:`` or brackets), exactly an option's text, or both, which must agree;
    after them an explanation may follow. A letter alone is the option's letter even where it is
    another option's text. ``Based on …`` is not a B, and a letter with any other text than its
    option's is not an answer.
    """
    _, think_end, tail = strip_latents(text).partition("</think>")
    found = _ANSWER.findall(tail) if think_end else []
    return _read(found[-1], options) if found else None


def _read(content: str, options: Sequence[str]) -> str | None:
    content = content.strip()
    texts = [str(option).strip() for option in options]
    letters = LETTERS[: len(texts)]
    match = _LETTER.fullmatch(content)
    letter = (match["marked"] or match["bare"]).strip("().:") if match else ""
    rest = (match["rest"] or "").strip() if match else ""
    if match and letter in letters and not rest:
        return letter
    if content in texts and content:
        return LETTERS[texts.index(content)]
    if not match or letter not in letters:
        return None
    return letter if _begins_with(rest, LETTERS.index(letter), texts) else None


def _begins_with(rest: str, index: int, texts: Sequence[str]) -> bool:
    """Whether a text begins with the option's, and with no longer one; case does not count."""
    said = " ".join(rest.split()).casefold()
    plain = [re.escape(" ".join(text.split()).casefold()) for text in texts]
    begun = [n for n, text in enumerate(plain) if text and re.match(rf"{text}(?![\w-])", said)]
    longest = max((len(texts[n]) for n in begun), default=0)
    return index in begun and len(texts[index]) == longest


def lenient_answer(text: str, options: Sequence[str]) -> str | None:
    """Return the answer that a patient reader would take from the response, or None.

    Tried in turn: the strict reading; the last ``<answer>``, closed or not; what follows
    ``</think>``; see ``lenient_answers`` for how each is read.
    """
    text = strip_latents(text)
    strict = parse_answer(text, options)
    if strict:
        return strict
    texts, letters = [str(option) for option in options], LETTERS[: len(options)]
    told = _OPENED.findall(text)
    if told and told[-1].strip():
        return _read(told[-1], texts) or lenient_letter(told[-1], texts, letters)
    tail = re.sub(r"</?(?:think|answer)>", " ", text.rpartition("</think>")[2])
    return lenient_letter(tail, texts, letters)
