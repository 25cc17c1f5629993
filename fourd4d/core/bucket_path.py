"""The path class of buckets, in a module of its own: etils is imported only where one is used."""

from __future__ import annotations

import pathlib

from etils.epath import gpath


class BucketPath(gpath.PosixGPath, pathlib.PosixPath):  # pyright: ignore
    """A path of epath that is a ``pathlib.Path`` too, as callers and type checks expect.

    What pathlib does is done by epath in the bucket; links, owners and modes exist in none.
    """
