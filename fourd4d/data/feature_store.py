"""Arrays of one shape on disk, found by the content they were made from.

ArrayRecord files below a directory; the last record of each holds the keys of those before it, so
that a store opens without reading its values. Files appear when they are whole: a kill loses those
not yet written, never more. Several processes may use one directory; each sees what lay there when
it opened.
"""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from absl import logging

from fourd4d.core.errors import InputError, one_line
from fourd4d.core.files import read_object, replacing
from fourd4d.core.records import SUFFIX
from fourd4d.core.storage import local_only

KEY: Final = 16  # Bytes of a key.
_FILE: Final = 64 << 20  # Bytes of a file, about.
_ROUND: Final = 256 << 10  # ArrayRecord fills its file up to whole blocks, and adds an index.
_ABOUT: Final = "about.json"


class FeatureStore:
    """Arrays by key; a context manager that writes the last file when it ends.

    What would go beyond ``most_bytes`` is not kept: nothing that is there is given up for it,
    since epochs ask for everything in turn.

    Args:
      directory: made if absent.
      about: JSON object of what the values were made with; a directory is of one.
      shape, dtype: of every value.
      most_bytes: of all files in the directory.

    Raises:
      InputError: the directory cannot be used, or is of other values.
    """

    def __init__(self, directory: str | os.PathLike[str], about: Mapping[str, Any],
                 shape: Sequence[int], dtype: Any, most_bytes: int):
        self.directory = local_only(directory, "a cache of features")
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._size = math.prod(self._shape) * self._dtype.itemsize
        self._most, self._lock = most_bytes, threading.Lock()
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._readers: dict[Path, Any] = {}
        self._waiting: dict[bytes, np.ndarray] = {}
        self._check({**about, "shape": list(self._shape), "dtype": self._dtype.name})
        self._bytes = 0
        for file in sorted(self.directory.glob(f"*{SUFFIX}")):
            self._open(file)

    def _check(self, about: Mapping[str, Any]) -> None:
        path = self.directory / _ABOUT
        remedy = "Choose another config.data.feature_cache, or delete it"
        said = json.loads(json.dumps(about))
        try:
            if not path.exists():
                with replacing(path) as draft:
                    draft.write_text(json.dumps(said, indent=1) + "\n")
        except (OSError, ValueError) as error:
            raise InputError(path, f"it cannot be used ({one_line(error)})", remedy) from error
        if read_object(path, remedy, remedy) != said:
            raise InputError(path, "the features there are of another encoder", remedy)

    def _open(self, file: Path) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            reader = ArrayRecordReader(os.fspath(file))
            count = reader.num_records() - 1
            keys = reader.read([count])[0]
            if len(keys) != KEY * count:
                raise ValueError("no list of keys at its end")
        except Exception as error:  # The binding raises bare RuntimeErrors.
            logging.warning("%s: left out of the cache of features (%s); delete it", file,
                            one_line(error))
            return
        self._readers[file] = reader
        self._bytes += file.stat().st_size
        for i in range(count):
            self._places[keys[KEY * i : KEY * (i + 1)]] = file, i

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The values that are there, by key; a file that cannot be read is left out from now on."""
        found: dict[bytes, np.ndarray] = {}
        by_file: dict[Path, list[bytes]] = {}
        with self._lock:
            for key in dict.fromkeys(keys):
                if key in self._waiting:
                    found[key] = self._waiting[key]
                elif key in self._places:
                    by_file.setdefault(self._places[key][0], []).append(key)
            for file, wanted in by_file.items():
                try:
                    values = self._readers[file].read([self._places[k][1] for k in wanted])
                    found |= {key: self._decoded(value)
                              for key, value in zip(wanted, values, strict=True)}
                except (RuntimeError, ValueError) as error:
                    logging.warning("%s: left out of the cache of features (%s)", file,
                                    one_line(error))
                    self._places = {k: v for k, v in self._places.items() if v[0] != file}
        return found

    def _decoded(self, value: bytes) -> np.ndarray:
        if len(value) != self._size:
            raise ValueError(f"{len(value)} bytes, not {self._size}")
        return np.frombuffer(value, self._dtype).reshape(self._shape)

    def put(self, values: Mapping[bytes, np.ndarray]) -> None:
        """Keeps values, where there is room; a full file is written at once."""
        with self._lock:
            for key, value in values.items():
                need = (len(self._waiting) + 1) * (self._size + KEY) + _ROUND
                if self._bytes + need <= self._most and key not in self._places:
                    self._waiting[key] = np.ascontiguousarray(value, self._dtype)
                if len(self._waiting) * self._size >= _FILE:
                    self._write()

    def flush(self) -> None:
        """Writes what waits."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        file = self.directory / f"{uuid.uuid4().hex}{SUFFIX}"
        with replacing(file) as draft:
            writer = ArrayRecordWriter(os.fspath(draft), "group_size:1,uncompressed")
            try:
                for value in waiting.values():
                    writer.write(value.tobytes())
                writer.write(b"".join(waiting))
            finally:
                writer.close()
        self._open(file)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
