"""The published JSONL layouts: DIFT rows and 4DRL rows, read and written.

Both are the public 4DThinker layouts; our extra keys (``timestamps``, ``type``, …) sit beside
theirs, so other tools read our files and we read theirs.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError, one_line
from fourd4d.core.files import parse_json, replacing
from fourd4d.core.options import (
    BARE,
    MARKED,
    ascii_letter,
    by_letter,
    letters_of,
    plain_text,
    unlettered,
)
from fourd4d.core.sample import LETTERS, Sample, check, option_text
from fourd4d.core.storage import as_path, below, is_remote, local_copy

_OPTION = re.compile(rf"^([{LETTERS}])\.(?:\s+(.*))?$")
_KEY = re.compile(rf"<answer>\s*([{LETTERS}])\b")
_OWN = re.compile(r"[(\[]?([A-Za-z])\s+(.+)", re.DOTALL)
_NEXT = chr(ord(LETTERS[-1]) + 1)  # One option too many.


def dift_row(sample: Sample) -> dict[str, Any]:
    """The sample as a row of a DIFT file."""
    return {
        "id": sample.id,
        "text_input": sample.text_input,
        "text_output": sample.response,
        "image_input": list(sample.frames),
        "image_output": list(sample.overlays),
        "timestamps": list(sample.timestamps),
        "image_output_timestamps": list(sample.overlay_timestamps),
        "masks": list(sample.masks),
        "type": sample.kind,
        "video_id": sample.video_id,
        "provenance": dict(sample.provenance),
    }


def rl_row(sample: Sample) -> dict[str, Any]:
    """The sample as a row of a 4DRL file: question and key, no response."""
    source = {"video_path": sample.video} if sample.video else {"frame_paths": list(sample.frames)}
    return {
        "id": sample.id,
        **source,
        "Question": sample.question,
        **dict(zip(LETTERS, sample.options, strict=False)),
        "Correct": sample.answer,
        "timestamps": list(sample.timestamps),
        "type": sample.kind,
        "video_id": sample.video_id,
        "provenance": dict(sample.provenance),
    }


def parse_row(row: Any, where: object) -> Sample:
    """A checked Sample from a row of either layout. Raises InputError naming ``where``."""
    if not isinstance(row, Mapping):
        raise InputError(where, "the row is not a JSON object", "Write one object a line")
    if "text_input" in row:
        sample = _parse_dift(row, where)
    elif "Question" in row:
        sample = _parse_rl(row, where)
    else:
        raise InputError(where, "neither 'text_input' nor 'Question' in the row",
                         "Give a DIFT row or a 4DRL row")
    check(sample, where)
    return sample


def _get(row: Mapping[str, Any], key: str, kind: type, where: object, default: Any = None) -> Any:
    if key not in row or row[key] is None:
        if default is None:
            raise InputError(where, f"key {key!r} is missing", "Add it")
        return default
    value = row[key]
    if not isinstance(value, kind):
        raise InputError(where, f"key {key!r} is {type(value).__name__}",
                         f"It must be {kind.__name__}")
    return value


def _list(row: Mapping[str, Any], key: str, kind: type, where: object) -> tuple[Any, ...]:
    values = _get(row, key, list, where, [])
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise InputError(where, f"key {key!r} holds {value!r}",
                             f"Every entry must be {kind.__name__}")
    return tuple(kind(value) for value in values)


def _common(row: Mapping[str, Any], where: object) -> dict[str, Any]:
    return dict(
        timestamps=_list(row, "timestamps", float, where),
        kind=_get(row, "type", str, where, ""),
        video_id=_get(row, "video_id", str, where, ""),
        provenance=_get(row, "provenance", dict, where, {}),
    )


def _parse_dift(row: Mapping[str, Any], where: object) -> Sample:
    text = _get(row, "text_input", str, where)
    question, _, tail = text.rpartition("\n\n")
    options: tuple[str, ...] = ()
    matches = [_OPTION.match(line) for line in tail.strip().splitlines()]
    if question and matches and all(matches):
        letters = "".join(m.group(1) for m in matches if m)
        if letters != LETTERS[: len(letters)]:
            raise InputError(where, f"options are lettered {letters!r}", "Letter them A, B, C, …")
        options = tuple((m.group(2) or "").strip() for m in matches if m)
    else:
        question = text
    response = _get(row, "text_output", str, where)
    keys = _KEY.findall(response) if options else []
    if options and not keys:
        raise InputError(where, "text_output has no <answer> with an option's letter",
                         "End it with <answer>A. …</answer>")
    return Sample(
        id=_get(row, "id", str, where), question=question, options=options,
        answer=keys[-1] if keys else "", response=response,
        frames=_list(row, "image_input", str, where),
        overlays=_list(row, "image_output", str, where),
        overlay_timestamps=_list(row, "image_output_timestamps", float, where),
        masks=_list(row, "masks", str, where), **_common(row, where),
    )


def _parse_rl(row: Mapping[str, Any], where: object) -> Sample:
    options = _options(row, where)
    common = _common(row, where)
    video = _get(row, "video_path", str, where, "")
    question = _get(row, "Question", str, where)
    frames = _list(row, "frame_paths", str, where)
    name = Path(video).stem if video else (*frames, "?")[0]
    return Sample(
        id=_get(row, "id", str, where, f"{name}:{question}"), question=question,
        options=options, answer=_key(row, options, where),
        video=video, frames=frames, **common,
    )


def _given(row: Mapping[str, Any], where: object) -> list[Any]:
    """What stands for each option, A first, as far as there are any."""
    given: Any = {letter: row.get(letter) for letter in (*LETTERS, _NEXT)}
    if all(map(_blank, given.values())):
        given = row.get("options", row.get("choices"))
        if isinstance(given, str):
            given = parse_json(given, f"{where}, options", "Give a list or one key an option")
        if isinstance(given, Mapping):
            given = by_letter(given, where)
            if unknown := sorted(set(given) - set(LETTERS)):
                raise InputError(where, f"options are lettered {unknown}", "Letter them A, B, C, …")
    if isinstance(given, Mapping):
        given = [given.get(letter) for letter in (*LETTERS, _NEXT)]
    if not isinstance(given, list):
        if _blank(given):
            return []
        raise InputError(where, f"options are {type(given).__name__}", "Give a list")
    given = list(given)
    while given and (_blank(given[-1]) or _only_marked(given, len(given) - 1)):
        given.pop()
    return given


def _blank(value: Any) -> bool:
    return value is None or isinstance(value, str) and not value.strip()


def _only_marked(given: Sequence[Any], place: int) -> bool:
    """Whether the option is a mark without a text ("C. "), the first being one with a text."""
    first, own = (MARKED.fullmatch(value.strip()) if isinstance(value, str) else None
                  for value in (given[0], given[place]))
    return bool(first and first[2] and own and not own[2]
                and ascii_letter(own[1]) == (LETTERS + _NEXT)[place : place + 1])


def _options(row: Mapping[str, Any], where: object) -> tuple[str, ...]:
    """Texts of the options; letters that they bear themselves ("A. Left") are taken off."""
    texts = tuple(option_text(value, where, f"option {letter}") for letter, value in zip(
        LETTERS + _NEXT, _given(row, where), strict=False))
    return unlettered(texts, where)


def _key(row: Mapping[str, Any], options: Sequence[str], where: object) -> str:
    """The letter that the key means: given as a letter, as an option's text, or as both."""
    if _blank(row.get("Correct")):
        raise InputError(where, "key 'Correct' is missing", "Add it")
    said = option_text(row["Correct"], where, "key 'Correct'")
    letters = LETTERS[: len(options)]
    bare = BARE.fullmatch(said)
    if bare and ascii_letter(bare[1]) in letters:
        return ascii_letter(bare[1])
    same = letters_of(said, options)
    if len(same) > 1:
        raise InputError(where, f"key {said!r} is the text of options {', '.join(same)}",
                         "Give the letter")
    own = MARKED.fullmatch(said) or _OWN.fullmatch(said)
    if not same and own and ascii_letter(own[1]) in letters:
        letter = ascii_letter(own[1])
        same = (letter,) if plain_text(own[2]) == plain_text(
            options[letters.index(letter)]) else ()
    return same[0] if same else said  # ``check`` refuses what is not a letter.


def read(path: str | os.PathLike[str]) -> Iterator[Sample]:
    """Samples of a JSONL file of either layout, in order.

    Raises:
      InputError: naming file and line of the first malformed row, or a duplicate id.
    """
    for _, _, sample in scan(path):
        yield sample


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, bytes]]:
    """(byte offset, line number, line) of the lines that hold something.

    Raises InputError where there is no such file, or it may not be read.
    """
    path = as_path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "Give a JSONL file")
    offset = 0
    try:
        with local_copy(path).open("rb") as lines:
            for number, line in enumerate(lines, 1):
                start, offset = offset, offset + len(line)
                if line.strip():
                    yield start, number, line
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})",
                         "Check its permissions") from error


def scan(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, Sample]]:
    """As ``read``, with each row's byte offset and line number, for random access later."""
    for start, number, found in scan_all(path):
        if isinstance(found, InputError):
            raise found
        yield start, number, found


def scan_all(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, Sample | InputError]]:
    """As ``scan``; the error of a malformed row stands in its place."""
    path = as_path(path)
    seen: dict[str, int] = {}
    for start, number, line in lines_of(path):
        where = f"{path}:{number}"
        try:
            found: Sample | InputError = parse_line(line, where)
            if found.id in seen:
                raise InputError(where, f"id {found.id!r} stands at line {seen[found.id]} too",
                                 "Make ids unique")
            seen[found.id] = number
        except InputError as error:
            found = error
        except Exception as error:  # Whatever lies in one line.
            found = InputError(where, one_line(error), "Fix or delete the line")
        yield start, number, found


def parse_line(line: bytes, where: object) -> Sample:
    """The Sample of one line. Raises InputError naming ``where``."""
    return parse_row(parse_json(line, where, "Fix or delete the line"), where)


def option_count(row: Mapping[str, Any]) -> int:
    """How many options a row that may be malformed has; 0 where that is unknown."""
    try:
        given = (_given(row, "row") if "text_input" not in row else
                 list(filter(_OPTION.match, str(row["text_input"]).splitlines())))
    except InputError:
        return 0
    count = sum(not (_blank(value) or _only_marked(given, place))
                for place, value in enumerate(given))
    return count if 2 <= count <= len(LETTERS) else 0


def glimpse(line: bytes) -> dict[str, Any]:
    """What a row that may be malformed says of itself: its object, or nothing."""
    try:
        row = parse_json(line, "row")
    except InputError:
        return {}
    return row if isinstance(row, dict) else {}


def write(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows to a temporary name, then renames; returns their number."""
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(_line(row, f"{path}:{count + 1}") + "\n")
            count += 1
    return count


def _line(row: Mapping[str, Any], where: object) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InputError(where, f"a row with NaN or Infinity ({error})",
                         "Write finite numbers") from error


def inside(root: str | os.PathLike[str], relative: str, where: object) -> Path:
    """``root / relative``; raises InputError when that leaves the root, by ``..`` or by a link."""
    if is_remote(root):
        found = below(os.fspath(root), relative)
        if found is None:
            raise _leaves(where, relative, root)
        return as_path(found)
    base = _resolved(os.fspath(root))
    folder, name = os.path.split(os.path.join(base, relative))
    path = os.path.join(_resolved(folder), name)
    if name in ("", ".", "..") or os.path.islink(path):
        path = os.path.realpath(path)
    if not path.startswith(base.rstrip(os.sep) + os.sep):
        raise _leaves(where, relative, base)
    return Path(path)


def _leaves(where: object, relative: str, root: object) -> InputError:
    return InputError(where, f"path {relative!r} leaves the data root {root}",
                      "Paths must stay below the root")


@functools.lru_cache(maxsize=65536)
def _resolved(folder: str) -> str:
    # Cached: a dataset names each folder many times, and resolving costs a call per component.
    return os.path.realpath(folder)
