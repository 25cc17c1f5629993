"""Streaming first-fit packing with an exact checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.collate import Packer, Size, collate
from fourd4d.data.rows import Rows, position

_PARTS: Final = "iterators_in_use_states"


class PackedBatches:
    """Rows that are (example, name) pairs → packed batches.

    Examples are taken in order, each into the first row with room. One that fits nowhere waits for
    the next batch; when ``lookahead`` of them wait, the batch is full. The last batch may have
    empty rows.
    """

    def __init__(self, rows: Rows, shape: BatchShape, protocol: ProtocolSpec, lookahead: int = 8):
        self.rows, self.shape, self.protocol, self.lookahead = rows, shape, protocol, lookahead

    def __iter__(self) -> PackedIterator:
        return PackedIterator(self)


class PackedIterator:
    """State: that of the rows, and the numbers of those that wait."""

    def __init__(self, packed: PackedBatches):
        self._packed, self._rows = packed, iter(packed.rows)
        self._waiting: list[tuple[int, tuple[Example, str]]] = []

    @property
    def failed(self) -> int:
        """Rows left out so far, those before a resume included."""
        return self._rows.failed

    def __iter__(self) -> PackedIterator:
        return self

    def __next__(self) -> Batch:
        packed = self._packed
        packer, chosen = Packer(packed.shape), []

        def place(pair: tuple[Example, str]) -> bool:
            fits = packer.add(Size.of(pair[0]))
            if fits:
                chosen.append(pair)
            return fits

        waiting = [(number, pair) for number, pair in self._waiting if not place(pair)]
        while len(waiting) < packed.lookahead:
            drawn = next(self._rows, None)
            if drawn is None:
                break
            if not place(drawn[1]):
                waiting.append(drawn)
        self._waiting = waiting
        if not chosen:
            raise StopIteration
        examples, names = zip(*chosen, strict=True)
        return collate(examples, packed.shape, packed.protocol, pack=True, names=names)

    def get_state(self) -> dict[str, Any]:
        return self._rows.get_state() | {"waiting": [number for number, _ in self._waiting]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Raises InputError on a state that is none of packed rows, or one that several workers
        of an earlier version saved, each of which packed for itself.
        """
        state = _position(state, self._packed.rows)
        self._rows.set_state(state)
        self._waiting = self._rows.again(state["waiting"])

    def close(self) -> None:
        """Ends workers and frees what they hold ready."""
        self._rows.close()


def _position(state: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """A position as this version writes it. Earlier ones held that before the oldest row that
    waited, and which of the rows since then did.
    """
    if "size" in state and "waiting" in state:
        return position(state, rows)
    before = state.get("packed", state)
    parts = before.get(_PARTS, [before])
    if len(parts) != 1:
        raise InputError("config.reading.workers", f"{len(parts)} of them packed rows, each for "
                         "itself", "Go on with the version that saved it, or start a new run")
    (part,) = parts
    if not isinstance(part, Mapping) or "parent" not in part or "waiting" not in part:
        raise InputError("data position", "it is not one of packed rows",
                         "Resume with the config.data.pack that saved it")
    found = position(part["parent"], rows)
    start, waits = found["rows"], part["waiting"]
    found |= {"rows": start + len(waits), "failed": state.get("failed", 0),
              "waiting": [start + i for i, waiting in enumerate(waits) if waiting]}
    if "packed" in state:  # That version drew epochs as this one does.
        found.pop("epochs")
    return found
