"""Axis legend: the letters used in every annotation, suffix and docstring of the package.

Tokens      B rows of a batch      L tokens of a row      D decoder width      V vocabulary
            E decoder width, for every DeepStack level once more behind it
Attention   N query heads          K key/value heads      H head width         S cached slots
Vision      F frame slots          W windows of a slot    M patches of a window
            C numbers of a patch   U merged tokens of a slot (W * M / merge ** 2)
Imagery     O overlays of a row    R latents of a block (``latent_size``)      Q = O * R
Time        T frames or generated tokens                  G responses of a prompt group

A *frame slot* is one temporal patch: ``temporal_patch`` consecutive video frames, or one still
image repeated. Slots never attend to each other inside the vision encoder, which is why the slot
is an axis and not a segment id.
"""

from typing import Final

PADDING_SEGMENT: Final = 0
NO_INDEX: Final = -1
