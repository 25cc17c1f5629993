"""Streaming first-fit packing with an exact checkpoint."""

from __future__ import annotations

from typing import Any

import grain

from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.collate import Packer, Size, collate


class PackedBatches(grain.IterDataset):
    """(example, name) pairs → packed batches.

    Examples are taken in order, each into the first row with room. One that fits nowhere waits for
    the next batch; when ``lookahead`` of them wait, the batch is full. The last batch may have
    empty rows.
    """

    def __init__(self, parent: grain.IterDataset, shape: BatchShape, protocol: ProtocolSpec,
                 lookahead: int = 8):
        super().__init__(parent)
        self._shape, self._protocol, self._lookahead = shape, protocol, lookahead

    def __iter__(self) -> grain.DatasetIterator:
        return _Iterator(iter(self._parent), self._shape, self._protocol, self._lookahead)


class _Iterator(grain.DatasetIterator):
    """State: the parent's before the oldest waiting example, and which of those after it wait."""

    def __init__(self, parent: grain.DatasetIterator, shape: BatchShape, protocol: ProtocolSpec,
                 lookahead: int):
        super().__init__(parent)
        self._shape, self._protocol, self._lookahead = shape, protocol, lookahead
        # Everything drawn since the oldest waiting example: (state before it, it or None if used).
        self._drawn: list[tuple[Any, tuple[Example, str] | None]] = []

    def __next__(self) -> Batch:
        packer, chosen = Packer(self._shape), []

        def place(pair: tuple[Example, str]) -> bool:
            fits = packer.add(Size.of(pair[0]))
            if fits:
                chosen.append(pair)
            return fits

        drawn = [(state, None if pair is None or place(pair) else pair)
                 for state, pair in self._drawn]
        waiting = sum(pair is not None for _, pair in drawn)
        while waiting < self._lookahead:
            state = self._parent.get_state()
            try:
                pair = next(self._parent)
            except StopIteration:
                break
            if place(pair):
                drawn.append((state, None))
            else:
                drawn.append((state, pair))
                waiting += 1
        while drawn and drawn[0][1] is None:
            drawn.pop(0)
        self._drawn = drawn
        if not chosen:
            raise StopIteration
        examples, names = zip(*chosen, strict=True)
        return collate(examples, self._shape, self._protocol, pack=True, names=names)

    def get_state(self) -> dict[str, Any]:
        start = self._drawn[0][0] if self._drawn else self._parent.get_state()
        return {"parent": start, "waiting": [pair is not None for _, pair in self._drawn]}

    def set_state(self, state: dict[str, Any]) -> None:
        if "waiting" not in state:  # An old position: each worker packed for itself.
            parts = state.get("iterators_in_use_states", ())
            if len(parts) != 1:
                raise InputError("data", f"rows packed by {len(parts)} workers each for itself",
                                 "Resume with the version that saved it, or start a new run")
            state = parts[0]
        self._parent.set_state(state["parent"])
        self._drawn = []
        for waits in state["waiting"]:
            before = self._parent.get_state()
            pair = next(self._parent)
            self._drawn.append((before, pair if waits else None))
