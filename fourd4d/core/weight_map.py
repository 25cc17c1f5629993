"""Tables that say where each of our parameters lies in somebody else's files."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and the file tensor (or tensors, one a layer) it comes from.

    A file tensor becomes a parameter in three moves: ``part`` cuts axis 0, the axes are split so
    that ``groups`` of the finer axes make up the file's axes, and ``order`` transposes them.

    Attributes:
      path: of the parameter in the model's state.
      key: name in the file; ``{layer}`` stands for the index of a stacked parameter's first axis.
      order: parameter axis i is finer axis ``order[i]``; the layers axis does not count.
      groups: how many finer axes each file axis is made of.
      part: (i, n): the i-th of n equal parts of the file tensor's axis 0.
      tail: sizes of the file's last axes, where the last finer axis is several of them joined.
    """

    path: tuple[str, ...]
    key: str
    order: tuple[int, ...] = (0,)
    groups: tuple[int, ...] = (1,)
    part: tuple[int, int] = (0, 1)
    tail: tuple[int, ...] = ()

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.key

    def layer_keys(self, shape: Sequence[int]) -> list[str]:
        """Names in the file for a parameter of ``shape``."""
        if not self.stacked:
            return [self.key]
        return [self.key.format(layer=layer) for layer in range(shape[0])]

    def _finer(self, shape: Sequence[int]) -> tuple[int, ...]:
        own = shape[1:] if self.stacked else shape
        finer = [0] * len(own)
        for axis, size in zip(self.order, own, strict=True):
            finer[axis] = size
        return tuple(finer)

    def file_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the file tensor behind a parameter of ``shape``."""
        finer, sizes, at = self._finer(shape), [], 0
        for count in self.groups:
            sizes.append(math.prod(finer[at : at + count]))
            at += count
        whole = (sizes[0] * self.part[1], *sizes[1:])
        return (*whole[:-1], *self.tail) if self.tail else whole

    def view(self, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The file tensor as (a layer of) the parameter of ``shape``; no copy."""
        index, parts = self.part
        rows = tensor.shape[0] // parts
        cut = tensor[index * rows : (index + 1) * rows]
        return cut.reshape(self._finer(shape)).transpose(self.order)

    def unview(self, value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Inverse of ``view``: this entry's part of the file tensor."""
        whole = self.file_shape(shape)
        back = value.transpose(np.argsort(self.order))
        return back.reshape(whole[0] // self.part[1], *whole[1:])


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """A model's files.

    Attributes:
      entries: one for every parameter, and none else.
      renames: (pattern, replacement) turning other writers' names into the table's; each name
        takes the first that matches.
      ignored: patterns of names that may be there and are not read (buffers).
      copies: file name → the file name it must equal, when it is there (a stored tied head).
    """

    entries: tuple[Entry, ...]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()

    def rename(self, key: str) -> str:
        for pattern, replacement in self.renames:
            renamed, count = re.subn(pattern, replacement, key)
            if count:
                return renamed
        return key

    def ignores(self, key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in self.ignored)

    def paths(self) -> set[tuple[str, ...]]:
        return {entry.path for entry in self.entries}


def kernel(path: Iterable[str], key: str, inputs: int = 1, outputs: int = 1,
           part: tuple[int, int] = (0, 1)) -> Entry:
    """A projection stored as (outputs, inputs), ours being (inputs…, outputs…)."""
    order = (*range(outputs, outputs + inputs), *range(outputs))
    return Entry((*path, "kernel"), f"{key}.weight", order, (outputs, inputs), part)


def vector(path: Iterable[str], key: str, axes: int = 1, part: tuple[int, int] = (0, 1)) -> Entry:
    """A bias or scale stored flat, ours having ``axes`` axes."""
    return Entry(tuple(path), key, tuple(range(axes)), (axes,), part)
