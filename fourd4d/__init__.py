"""fourd4d: thinking with 4D imagery, in JAX.

    thinker = fourd4d.load("path/to/checkpoint")
    thinker.answer("clip.mp4", "Which way does the ball move?", ["Left", "Right"])
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourd4d.api import Answerer

__version__ = "0.1.0"


def load(directory: str | os.PathLike[str], **options: Any) -> Answerer:
    """A model that answers questions about videos, from either kind of checkpoint directory.

    See ``fourd4d.api.load``; nothing heavy is imported before the first call.
    """
    from fourd4d import api

    return api.load(directory, **options)
