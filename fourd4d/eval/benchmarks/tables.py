"""Rows of parquet, TSV, CSV and JSON files, and the fields of benchmarks in them.

What cannot be used of a file is an InputError; what cannot be used of a row is that row's problem.
"""

from __future__ import annotations

import ast
import csv
import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourd4d.core.errors import InputError, one_line
from fourd4d.core.files import parse_json
from fourd4d.core.options import (
    BARE,
    MARKED,
    ascii_letter,
    by_letter,
    letters_of,
    plain_text,
    unlettered,
)
from fourd4d.core.sample import LETTERS, option_text
from fourd4d.eval.benchmarks.base import Clip, Question

Row = dict[str, Any]
_INDEX = re.compile(r"(\d{1,3})(\.0*)?")
_KINDS = ("type", "task_type", "Task", "question_type", "cate")
_LONGEST = 1_000_000  # Characters of a list written as text.


class _Constant:
    """NaN or an infinity in JSON."""

    def __init__(self, name: str):
        self.name = name


def find(root: Path, *patterns: str, of: str) -> Path:
    """The first file below root that matches the first pattern that any does.

    Raises InputError where none does.
    """
    for pattern in patterns:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if found:
            return found[0]
    raise InputError(root, f"no file of {of} here ({', '.join(patterns)})",
                     "Give the folder that holds it as --config.root")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """(file and row, row) of a table, by its suffix: parquet, tsv, csv, json, jsonl.

    Raises:
      InputError: it cannot be read, or has not these columns.
    """
    kind = path.suffix.lower()
    readers = {".parquet": _parquet, ".tsv": _separated, ".csv": _separated, ".json": _json,
               ".jsonl": _jsonl}
    if kind not in readers:
        raise InputError(path, f"no reader of {kind or 'such'} files", f"Use {sorted(readers)}")
    try:
        for number, row in enumerate(readers[kind](path, columns), 1):
            yield f"{path}:{number}", row
    except OSError as error:
        told = error.strerror or " ".join(str(error).split())
        raise InputError(path, f"it cannot be read ({told})", "Check the file") from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(path, f"it is not a readable parquet file ({one_line(error)})",
                         "Fetch it again") from error


def _separated(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    tab = path.suffix.lower() == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if tab else ",")
            _check_columns(path, reader.fieldnames or (), columns)
            for row in reader:
                row.pop(None, None)  # type: ignore[call-overload]  # More cells than columns.
                yield dict(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(path, f"it is not a readable table ({one_line(error)})",
                         "Fetch it again") from error


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    value = load_json(path)
    if not isinstance(value, list):
        raise InputError(path, "it holds no list of rows", "Give the benchmark's own file")
    rows = [row for row in value if isinstance(row, dict)]
    if value:
        _check_columns(path, {key for row in rows for key in row}, columns)
    for row in value:
        yield row if isinstance(row, dict) else {"": row}


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    checked = False
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = _constants_kept(line, path)
            except InputError as error:
                row = {"": error.what}
            if not isinstance(row, dict):
                row = {"": row}
            if not checked and "" not in row:
                _check_columns(path, row, columns)
                checked = True
            yield row


def load_json(path: Path) -> Any:
    """A JSON file's value, in which NaN stands as something that no field takes.

    Raises InputError: it cannot be read.
    """
    try:
        return _constants_kept(path.read_bytes(), path)
    except OSError as error:
        raise InputError(path, f"it cannot be read ({error.strerror})", "Check the file") from error


def _constants_kept(data: bytes, where: object) -> Any:
    try:
        return parse_json(data, where, "Fetch it again")
    except InputError as error:
        if not re.search(rb"NaN|Infinity", data):
            raise
        try:
            return json.loads(data.decode("utf-8-sig"), parse_constant=_Constant)
        except (ValueError, RecursionError):
            raise error from None


def _check_columns(path: Path, found: Any, wanted: Sequence[str]) -> None:
    found = list(found)
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise InputError(path, f"no columns {lacking}; it has {brief(found[:20], 300)}",
                         "Give the benchmark's own file")


def questions_of(path: Path, columns: Sequence[str],
                 make: Callable[[Row, str], Question]) -> list[Question]:
    """A question for every row of a table; what ``make`` raises of a row is its problem."""
    return [question_of(row, where, make) for where, row in read_rows(path, columns)]


def question_of(row: Row, where: str, make: Callable[[Row, str], Question]) -> Question:
    """``make(row, where)``, or a question with the problem that kept it from being made."""
    try:
        if "" in row:
            raise InputError(where, "the row is not an object", "Fetch the file again")
        return make(row, where)
    except Exception as error:  # Whatever lies in one row.
        kind = next((row[name] for name in _KINDS if isinstance(row.get(name), str)), "")
        return Question(f"row {where.rpartition(':')[2]}", kind=kind, where=where,
                        problem=one_line(error), options=_guess_options(row),
                        row={k: v for k, v in row.items() if not _odd(v)})


def _guess_options(row: Row) -> tuple[str, ...]:
    """For the chance of a row that cannot be asked; empty where nothing tells."""
    for name in ("options", "choices", "Candidates"):
        try:
            return options_of(row[name], "row")[0]
        except Exception:
            continue
    return ()


def brief(value: object, most: int = 60) -> str:
    """``repr`` of a field, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def _odd(value: Any) -> bool:
    return isinstance(value, _Constant) or isinstance(value, float) and not math.isfinite(value)


def text(row: Row, name: str, where: object, default: str | None = None) -> str:
    """A text of a row, or a number as text. Raises InputError where it is empty or missing."""
    value = row.get(name)
    if value is None or isinstance(value, str) and not value.strip():
        if default is not None:
            return default
        raise InputError(where, f"{name!r} is empty", "Fetch the file again")
    if _odd(value):
        raise InputError(where, f"{name!r} is not a number or a text (NaN)", "Fetch it again")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise InputError(where, f"{name!r} is {type(value).__name__}", "It must be a text")


def number(row: Row, name: str, where: object) -> float:
    """A finite number of a row, also written as text. Raises InputError."""
    try:
        value = math.nan if isinstance(row[name], bool) else float(row[name])
        if math.isfinite(value):
            return value
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise InputError(where, f"{name!r} is {brief(row.get(name))}", "It must be a number")


def listed(value: Any, where: object, name: str) -> list[Any] | dict[str, Any]:
    """A list or mapping, given as such, as JSON, or as a Python literal. Raises InputError."""
    if isinstance(value, str):
        found = None
        if len(value) <= _LONGEST:
            for parse in (json.loads, ast.literal_eval):  # The latter runs nothing.
                try:
                    found = parse(value)
                    break
                except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                    continue
        value = found
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, list | dict):
        raise InputError(where, f"{name!r} is not a list", "Fetch the file again")
    return value


def options_of(value: Any, where: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(texts without letters of their own, texts as they stand) of a question's options.

    Raises:
      InputError: not 2 to 10, one that is empty, letters out of order.
    """
    given = listed(value, where, "options")
    if isinstance(given, dict):
        given = by_letter({key: text for key, text in given.items() if text is not None}, where)
        if "".join(sorted(given)) != LETTERS[: len(given)]:
            raise InputError(where, f"options are lettered {sorted(given)}",
                             "Letter them A, B, C, …")
        given = [given[letter] for letter in sorted(given)]
    if not 2 <= len(given) <= len(LETTERS):
        raise InputError(where, f"{len(given)} options", f"Give 2 to {len(LETTERS)}")
    shown = tuple(option_text(item, where, f"option {letter}")
                  for letter, item in zip(LETTERS, given, strict=False))
    return unlettered(shown, where), shown


def answers_of(value: Any, options: Sequence[str], where: object, *,
               texts_first: bool = False) -> tuple[str, ...]:
    """The letters that are right: given as a letter, an option's text, both, or an index from 0.

    A truth value means the option that says so ("Yes"), a float (of a column with gaps) the whole
    number that it is. Several where options are the same.

    Args:
      texts_first: the file gives texts: a text goes before a letter and before an index.

    Raises:
      InputError: none is.
    """
    if value is None or _odd(value):
        raise InputError(where, f"the answer is {value!r}", "Fetch the file again")
    said = str(value).strip()
    text, lettered = letters_of(said, options), _lettered(said, options)
    if found := text or lettered if texts_first else lettered or text:
        return found
    index = _INDEX.fullmatch(said)
    if index and int(index[1]) < len(options) and not (
            index[2] and all(map(_INDEX.fullmatch, options))):  # A number of none of them.
        return letters_of(options[int(index[1])], options)
    raise InputError(where, f"the answer {said[:60]!r} is none of the {len(options)} options",
                     "It is counted as wrong; tell the benchmark's authors")


def _lettered(said: str, options: Sequence[str]) -> tuple[str, ...]:
    """The letters that a letter means, or a letter with its option's text; empty for none."""
    letters = LETTERS[: len(options)]
    bare, marked = BARE.fullmatch(said), MARKED.fullmatch(said)
    if bare and ascii_letter(bare[1]) in letters:
        return letters_of(options[letters.index(ascii_letter(bare[1]))], options)
    found = letters_of(marked[2], options) if marked else ()
    return found if marked and ascii_letter(marked[1]) in found else ()


def odd_options(options: Sequence[str]) -> str:
    """A note where options are the same; empty for none."""
    same = {}
    for letter, option in zip(LETTERS, options, strict=False):
        same.setdefault(plain_text(option), []).append(letter)
    twice = [" and ".join(names) for names in same.values() if len(names) > 1]
    return f"options {'; '.join(twice)} are the same" if twice else ""


def frame_files(root: Path, folder: str, *patterns: str) -> tuple[str, ...]:
    """Frame images of a folder below root, by name, 2 before 10; empty where there are none."""
    found = sorted((root / folder).glob("*"), key=_in_numbers)
    for pattern in patterns or ("*.jpg", "*.jpeg", "*.png"):
        own = [path for path in found if fnmatch.fnmatchcase(path.name.lower(), pattern)]
        if own:
            return tuple(str(path.relative_to(root)) for path in own)
    return ()


def _in_numbers(path: Path) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts runs of digits by their value."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], path.name


def video_clip(*names: str, window: tuple[float, float] | None = None) -> Clip:
    """The clip of a video file that lies at the first of these paths below root where one is."""
    return Clip(video=names[0], elsewhere=names[1:], window=window)


def choice(row: Mapping[str, Any], where: str, *, key: str, question: str, options: Any,
           answer: Any, kind: str, clips: Sequence[Clip], texts_first: bool = False,
           video_id: str = "") -> Question:
    """A multiple-choice question from the fields of a row. Raises InputError."""
    texts, shown = options_of(options, where)
    return Question(
        key, question, texts, answers_of(answer, texts, where, texts_first=texts_first),
        kind=kind, clips=tuple(clips), video_id=video_id, shown=shown, row=row, where=where,
        note=odd_options(texts))
