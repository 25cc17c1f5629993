"""What a plain answer fed and said, and true targets, kept on disk item by item."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.core.rollout import Rollout
from fourd4d.core.storage import as_path


@dataclasses.dataclass(frozen=True)
class Recording:
    """One response: its T tokens, and the Q latents and O mental images among them.

    Attributes:
      tokens, sampled, latent_index: as in ``core.rollout.Rollout``.
      latents: what was fed, float32.
      before: hidden state of the token before each ``<|latent_start|>``.
      end: hidden state of each ``<|latent_end|>``, the reader's where there is one.
    """

    tokens: Int[np.ndarray, "T"]
    sampled: Bool[np.ndarray, "T"]
    latent_index: Int[np.ndarray, "T"]
    latents: Float[np.ndarray, "Q D"]
    before: Float[np.ndarray, "O D"]
    end: Float[np.ndarray, "O D"]

    def words(self, latent_start: int) -> Bool[np.ndarray, "T"]:
        """Tokens that belong to no block: neither starts, latents nor ends."""
        latent = self.latent_index >= 0
        ends = ~latent & np.roll(latent, 1)
        ends[:1] = False
        return ~(latent | ends | (self.tokens == latent_start))

    def without_images(self, latent_start: int) -> Recording:
        """The response's ``words`` alone."""
        keep, empty = self.words(latent_start), self.latents[:0]
        return Recording(self.tokens[keep], self.sampled[keep], self.latent_index[keep], empty,
                         empty, empty)


def of_rollout(rollout: Rollout, row: int, before: Any, end: Any, images: int) -> Recording:
    """A row of a rollout on the host, with the hidden states at its first ``images`` blocks."""
    length = int(np.sum(rollout.mask[row]))
    index = np.asarray(rollout.latent_index[row, :length])
    fed = int(index.max(initial=-1)) + 1
    return Recording(
        np.asarray(rollout.tokens[row, :length]), np.asarray(rollout.sampled[row, :length]), index,
        np.asarray(rollout.latents[row, :fed], np.float32),
        np.asarray(before[:images], np.float32), np.asarray(end[:images], np.float32))


def join(recordings: Sequence[Recording], rows: int, tokens: int, latents: int) -> Rollout:
    """The rollout whose first rows are these responses; the other rows are empty.

    Args:
      tokens, latents: the buffers' sizes.
    """
    width = recordings[0].latents.shape[1]
    out = Rollout(
        tokens=np.zeros((rows, tokens), np.int32), mask=np.zeros((rows, tokens), bool),
        sampled=np.zeros((rows, tokens), bool), log_probs=np.zeros((rows, tokens), np.float32),
        latents=np.zeros((rows, latents, width), np.float32),
        latent_index=np.full((rows, tokens), -1, np.int32), truncated=np.zeros(rows, bool))
    for row, one in enumerate(recordings):
        length = len(one.tokens)
        for name in ("tokens", "sampled", "latent_index"):
            getattr(out, name)[row, :length] = getattr(one, name)
        out.mask[row, :length] = True
        out.latents[row, : len(one.latents)] = one.latents
    return out


class ArrayStore:
    """Named arrays, one ``.npz`` file per item below ``directory``; keys need not be file names."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = as_path(directory)

    def save(self, key: str, **arrays: Any) -> None:
        """Under a temporary name, then renamed."""
        with replacing(self._path(key)) as temporary, temporary.open("wb") as out:
            np.savez(out, **arrays)

    def load(self, key: str) -> dict[str, np.ndarray]:
        """What was saved. Raises InputError where nothing was, or the file is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:
            raise InputError(path, f"no recording of item {key!r} ({type(error).__name__})",
                             "Delete the out directory and start again") from error

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


class Recordings:
    """The plain answers' ``Recording``, by item."""

    def __init__(self, directory: str | os.PathLike[str]):
        self._store = ArrayStore(directory)

    def save(self, key: str, recording: Recording) -> None:
        fields = {f.name: getattr(recording, f.name) for f in dataclasses.fields(Recording)}
        self._store.save(key, **fields)

    def load(self, key: str) -> Recording:
        return Recording(**self._store.load(key))
