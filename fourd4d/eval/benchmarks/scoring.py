"""Reading answers out of responses, and their scores: strict, lenient, and as kits do it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from fourd4d.eval.benchmarks.base import Question, Reading
from fourd4d.processing.answers import lenient_answer, parse_answer, strip_latents

THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
_NUMBER: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_FILLED: Final = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_UNITS: Final = ("zero one two three four five six seven eight nine ten eleven twelve thirteen "
                 "fourteen fifteen sixteen seventeen eighteen nineteen").split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS: Final = ({word: n for n, word in enumerate(_UNITS)}
                 | {word: 10 * n for n, word in enumerate(_TENS, 2)}
                 | {"hundred": 100, "thousand": 1000})


def mean_relative_accuracy(answer: float | None, key: float) -> float:
    """Share of the thresholds .50, .55, … .95 that ``|answer - key| / |key| <= 1 - threshold``.

    A key of 0 has no relative error: then the answer is right (1) or wrong (0).
    Source: VSI-Bench, arXiv 2412.14171; compared in floating point as its released code does.
    """
    if answer is None or not np.isfinite(answer):
        return 0.0
    if key == 0:
        return float(answer == 0)
    return float((abs(answer - key) / abs(key) <= 1 - THRESHOLDS).mean())


def score(question: Question, reading: Reading) -> float:
    """1 for a right letter and 0 for another; of a number its mean relative accuracy."""
    if question.number is not None:
        return mean_relative_accuracy(reading if isinstance(reading, float) else None,
                                      question.number)
    return float(isinstance(reading, str) and reading in question.answers)


def region(text: str) -> str:
    """The last ``<answer>`` that holds something; else what follows ``</think>``; else all."""
    text = strip_latents(text)
    filled = [content for content in _FILLED.findall(text) if content.strip()]
    return (filled[-1] if filled else text.rpartition("</think>")[2]).strip()


def strict(text: str, question: Question) -> Reading:
    """The answer that stands alone where an answer belongs, or None.

    That is an option's letter, its text, or both in agreement; or one number. ``D. Right`` is no
    answer where D reads "Up".
    """
    said = region(text)
    if question.number is not None:
        match = _NUMBER.fullmatch(said.rstrip("."))
        return float(match[0]) if match else None
    return parse_answer(f"<think></think><answer>{said}</answer>", question.options)


def lenient(text: str, question: Question) -> Reading:
    """The answer that a patient reader would take, or None; of numbers, the first one."""
    if question.number is None:
        return lenient_answer(text, question.options)
    found = first_number(region(text))
    return found if found is not None else first_number(strip_latents(text))


def first_number(text: str) -> float | None:
    """The number that comes first, in digits or in English words ("twenty-one"); None for none."""
    text = text.lower()
    digits = re.search(r"-?\d+(?:\.\d+)?", text)
    run: list[int] = []
    start = None
    for match in re.finditer(r"[a-z]+", text):
        if start is not None and match[0] == "and":
            continue
        if match[0] not in _WORDS:
            if start is not None:
                break
            continue
        start = match.start() if start is None else start
        run.append(_WORDS[match[0]])
    if digits and (start is None or digits.start() < start):
        return float(digits[0])
    if start is None:
        return None
    total = current = 0
    for value in run:
        if value == 100:
            current = max(current, 1) * 100
        elif value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        else:
            current += value
    return float(total + current)


# ---- as kits read ----


def first_word(text: str, question: Question) -> Reading:
    """Up to the first space, its points off: lmms-eval's letters, ReVSI's and the paper's numbers.

    Source: ``fuzzy_matching`` of VSI-Bench.
    """
    word = text.split(" ")[0].rstrip(".").strip()
    if question.number is None:
        return word.upper() if word.upper() in tuple(question.letters) else None
    try:
        return float(word)
    except ValueError:
        return None


def stripped_first_word(text: str, question: Question) -> Reading:
    """As ``first_word``, of the text without the spaces around it."""
    return first_word(text.strip(), question)


def first_word_or_number(text: str, question: Question) -> Reading:
    """lmms-eval's reading of VSI-Bench: letters by ``first_word``, numbers by ``first_number``."""
    return (first_word(text, question) if question.number is None else first_number(text))


_TAGGED = re.compile(r"<\s*answer\b[^>]*>\s*([A-J]).*?<\s*/\s*answer\s*>", re.I | re.S)
_BRACKETED = r"[(\[{（【]?\s*([A-F])\s*[)\]}）】]?"
_BEFORE_END = re.compile(rf"(?<![A-Za-z]){_BRACKETED}\s*</\s*answer\s*>", re.I)
_BEFORE_THINK = re.compile(rf"(?<![A-Za-z]){_BRACKETED}\s*</\s*think\s*>", re.I)
_NAMED = re.compile(r"^[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:：]", re.I)
_ALONE = re.compile(r"\s*[*_`>（）\[\]【】()]*\s*([A-F])\s*[*_`（）\[\]【】()]*\s*", re.I)
_LABEL = re.compile(r"\s*([A-F])\s*[.．:：)\]】、-]\s+", re.I)
_INLINE = re.compile(r"(?<![A-Za-z])[*_`（\[{(]*\s*([A-F])\s*[*_`）\]})]*"
                     r"(?=$|[\s.,:;!?)\]】》」』，。；、：）])")
_SAYS = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|"
    "答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    rf"\s*[:：>＝=]?\s*{_BRACKETED}(?:\b|[.)、。])", re.I)
_CAPITAL = re.compile(rf"(?<![A-Za-z]){_BRACKETED}(?![A-Za-z])")


def vlmevalkit_option(text: str, question: Question) -> Reading:
    """The letter that VLMEvalKit's spatial benchmarks read, its quirks included.

    ``<answer>Based on …`` is a B there: inside the tag any first letter counts. Source:
    ``vlmeval/dataset/utils/spatial_bench/matching_func.py``.
    """
    del question
    text = re.sub("[\u200b\u200c\u200d\ufeff]", "", text.strip())
    if match := _TAGGED.search(text):
        return match[1].upper()
    tail = text[-800:]
    for pattern in (_BEFORE_END, _BEFORE_THINK):
        if match := pattern.search(tail):
            return match[1].upper()
    ends = list(re.finditer(r"</\s*think\s*>", text, re.I)) or list(
        re.finditer(r"<\s*think\s*>", text, re.I))
    after = text[ends[-1].end() :].strip() if ends else text
    for lines in (after, tail):
        if found := _from_lines(lines.splitlines()[-6:]):
            return found
    if match := _SAYS.search(text):
        return match[1].upper()
    kept = "\n".join(line for line in text.splitlines() if not _NAMED.search(line))
    found = set(_CAPITAL.findall(kept))
    return found.pop() if len(found) == 1 else None


def _from_lines(lines: Sequence[str]) -> str | None:
    for line in reversed([line.strip() for line in lines if line.strip()]):
        if _NAMED.search(line):
            continue
        if match := _ALONE.fullmatch(line) or _LABEL.match(line):
            return match[1].upper()
        found = set(_INLINE.findall(line))
        if len(found) == 1:
            return found.pop()
    return None


def tagged_letter(text: str, question: Question) -> Reading:
    """The letter that alone fills an ``<answer>``: DSI-Bench's reading."""
    match = re.search(r"<answer>\s*([A-D])\s*</answer>", text, re.IGNORECASE)
    return match[1].upper() if match and match[1].upper() in question.letters else None


def first_token(text: str, question: Question) -> Reading:
    """Up to the first white space, marks off its end, as a capital: Dyn-Bench's reading."""
    word = (text.split() or [""])[0].rstrip(".,;:!?").upper()
    return word if word in tuple(question.letters) else None


_STI = [re.compile(pattern, re.I | re.M) for pattern in (
    r"\(([A-E])\)", r"Ans\s*=\s*['\"]?([A-E])['\"]?", r"Answer\s*[:=]\s*([A-E])",
    r"Option\s+([A-E])", r"\b([A-E])\s*(?:is|was)\s*correct", r"\b([A-E])[.)]\s*$")]


def sti_letter(text: str, question: Question) -> Reading:
    """The first of six patterns that STI-Bench's script knows; else the text's last character."""
    del question
    for pattern in _STI:
        if match := pattern.search(text):
            return match[1].upper()
    last = text.strip()[-1:]
    return last if last in tuple("ABCDE") else None


def mmsi_letter(text: str, question: Question) -> Reading:
    """A letter boxed, in JSON, after "answer is" or "Answer:", or before the first point.

    Source: ``extract_answer`` of MMSI-Video-Bench's ``evaluation.py``.
    """
    del question
    text = text.replace("<answer>", "").replace("</answer>", "")
    if "no answer" in text:
        return None
    if "boxed{" in text:
        said = text.split("boxed{")[1].split("}")[0]
    else:
        for mark in ('"answer":', "answer is", "Answer: "):
            if mark in text:
                said = re.split("[,.]", text.split(mark)[-1])[0]
                break
        else:
            said = text.split(".")[0]
    said = re.sub("[ \"'\n:]", "", said)
    return said if said in tuple("ABCDEF") else None
