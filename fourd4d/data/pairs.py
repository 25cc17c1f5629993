"""Two rows that ask the same about clips with one fact changed, as one row of a pipeline.

So nothing parts them: neither batches, nor shares of processes, nor a resume, nor a row that
cannot be used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging

from fourd4d.core.errors import InputError
from fourd4d.data.source import Row, Source, row_name


@dataclasses.dataclass(frozen=True)
class RowPair:
    """Two rows whose samples have one ``Sample.pair``."""

    rows: tuple[Row, Row]


class PairSource:
    """The pairs of a source, by number, in the order of their first rows.

    Rows without a counterpart are left out; so are those that cannot be read.

    Raises:
      InputError: there is no pair, or three rows of one.
    """

    def __init__(self, source: Source):
        self.source = source
        places: dict[str, list[int]] = {}
        alone = 0
        for number, name in enumerate(_names(source)):
            if name:
                places.setdefault(name, []).append(number)
            alone += not name
        self._pairs: list[tuple[int, int]] = []
        for name, rows in places.items():
            if len(rows) > 2:
                raise InputError(row_name(source, rows[2]), f"a third row of the pair {name!r}",
                                 "Keep two")
            if len(rows) == 2:
                self._pairs.append((rows[0], rows[1]))
            alone += len(rows) == 1
        if not self._pairs:
            raise InputError("config.data.pairs", "no two rows of the data are a pair",
                             "Synthesize with --config.pairs=\"('mirror','reverse')\"")
        if alone:
            logging.info("%d of %d rows have no counterpart and are left out", alone, len(source))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        first, second = self._pairs[index]
        return RowPair((self.source[first], self.source[second]))

    def where(self, index: int) -> str:
        """File and line of both rows."""
        return " and ".join(row_name(self.source, number) for number in self._pairs[index])


def _names(source: Source) -> Iterator[str]:
    for number in range(len(source)):
        try:
            yield source[number].sample.pair
        except InputError:  # A malformed row; its counterpart is then alone.
            yield ""


def unpaired(pairs: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    """What pairs hold, one after the other."""
    return tuple(one for pair in pairs for one in pair)
