"""What Orbax needs of a bucket, tried before a run begins."""

from __future__ import annotations

import importlib.util
import os
import uuid
from typing import Final

import tensorstore
from etils import epath

from fourd4d.core.errors import InputError, one_line
from fourd4d.core.storage import check_writable

_REMEDY: Final = ("Check that this machine's account may read, write and delete objects there and "
                  "look the bucket up (storage.buckets.get)")


def check_bucket(directory: epath.Path) -> None:
    """Use a bucket in each of the ways in which checkpoints do, which sign in separately.

    epath writes the small files, TensorStore the arrays, and google-cloud-storage asks the bucket
    whether its folders are real before old steps are deleted.

    Raises:
      InputError: one of them is not installed, or fails.
    """
    check_writable(directory)
    if not importlib.util.find_spec("google.cloud.storage"):
        raise InputError(directory, "old checkpoints cannot be deleted there without "
                         "google-cloud-storage", "Install it with: pip install 'fourd4d[gcs]'")
    try:
        _write_array(directory)
    except Exception as error:
        raise InputError(directory, f"TensorStore cannot use it ({one_line(error)})", _REMEDY
                         ) from error
    try:
        _look_up(directory)
    except Exception as error:
        raise InputError(directory, f"the bucket cannot be looked up ({one_line(error)})", _REMEDY
                         ) from error


def _write_array(directory: epath.Path) -> None:
    bucket, _, path = os.fspath(directory).removeprefix("gs://").partition("/")
    store = tensorstore.KvStore.open({
        "driver": os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs"),  # As Orbax chooses it.
        "bucket": bucket, "path": f"{path}/" if path else ""}).result()
    name, said = f".arrays-{uuid.uuid4().hex}", b"fourd4d"
    store.write(name, said).result()
    if store.read(name).result().value != said:
        raise OSError("what was written is not what was read")
    store.delete_range(tensorstore.KvStore.KeyRange(name, name + "\0")).result()


def _look_up(directory: epath.Path) -> None:
    from google.cloud import storage  # pyright: ignore[reportMissingImports]

    storage.Client().get_bucket(os.fspath(directory).removeprefix("gs://").partition("/")[0])
