"""What every source of clips hands to questions, reasoning and pictures.

A simulated scene and a digested video file both become a ``Clip``: frames, true times, masks of a
few named things, and what the camera did. NumPy only.

Conventions:
  Camera axes are x right, y down, z forward (OpenCV). Poses are camera-to-world.
  Boxes are x0, y0, x1, y1 as fractions of width and height, y downwards.
  Times are seconds from the start of the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourd4d.core.errors import InputError

MOVES: Final = (
    "Pan Left", "Pan Right", "Tilt Up", "Tilt Down", "Roll CW", "Roll CCW", "Dolly In",
    "Dolly Out", "Truck Left", "Truck Right", "Pedestal Up", "Pedestal Down", "Static",
)
OPPOSITE_MOVE: Final[Mapping[str, str]] = {
    a: b
    for pair in (MOVES[i : i + 2] for i in range(0, 12, 2))
    for a, b in (pair, pair[::-1])
}


@dataclasses.dataclass(frozen=True)
class Track:
    """One object tracked through a clip.

    Attributes:
      name: as a person would call it, without an article: ``red cube``.
      role: ``dynamic`` moves by itself; ``static`` is a landmark fixed to the scene.
      boxes: fractions of the frame; NaN where the object is not seen.
      masks: True on its visible pixels.
      depth: metres from the camera plane; NaN where unknown. None where there is no geometry.
      source: what found and tracked it, e.g. ``scenes`` or ``motion``.
      centers: metres, the centre in the axes of the first frame's camera. None where unknown.
      error: metres, how far the true centre may be from ``centers``. None where they are exact.
      depth_error: shares by which each depth may be off, by each of E estimates; errors of equal
        size and sign change no ratio of depths. None where exact.
      depth_within: factor that all depths may be wrong by, either way; 1 where they are exact.
    """

    name: str
    role: Literal["dynamic", "static"]
    boxes: Float[np.ndarray, "T 4"]
    masks: Bool[np.ndarray, "T H W"]
    depth: Float[np.ndarray, "T"] | None = None
    source: str = ""
    centers: Float[np.ndarray, "T 3"] | None = None
    error: Float[np.ndarray, "T"] | None = None
    depth_error: Float[np.ndarray, "E T"] | None = None
    depth_within: float = 1.0

    @property
    def seen(self) -> Bool[np.ndarray, "T"]:
        """Frames in which the object has a box, (T,)."""
        return np.asarray(np.isfinite(self.boxes).all(-1))


@dataclasses.dataclass(frozen=True)
class CameraSegment:
    """A span of time with one set of camera moves, seconds; ``moves`` are names from MOVES.

    ``Static`` stands alone. ``moves`` empty means the motion could not be told: ask nothing.
    """

    start: float
    end: float
    moves: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip with its labels.

    Attributes:
      video_id: name of the source video, unique in a dataset.
      frames: sRGB.
      timestamps: seconds, rising.
      tracks: dynamic things first, then landmarks; the main one of each role leads.
      camera: spans in time order that do not overlap; empty where the motion is unknown.
      poses: camera-to-world. None where unknown; their scale may be arbitrary (``provenance``
        key ``scale``: ``metric`` or ``relative``).
      provenance: where each label comes from (JSON values): keys ``source``, ``camera``,
        ``objects``, ``scale``, and whatever else the source wants recorded.
    """

    video_id: str
    frames: UInt8[np.ndarray, "T H W 3"]
    timestamps: Float[np.ndarray, "T"]
    tracks: tuple[Track, ...] = ()
    camera: tuple[CameraSegment, ...] = ()
    poses: Float[np.ndarray, "T 4 4"] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        count, height, width = self.frames.shape[:3]

        def bad(what: str, remedy: str) -> InputError:
            return InputError(f"clip {self.video_id!r}", what, remedy)

        if self.timestamps.shape != (count,) or (np.diff(self.timestamps) <= 0).any():
            raise bad("timestamps do not rise or do not match the frames", "Give one per frame")
        for track in self.tracks:
            if track.masks.shape != (count, height, width):
                raise bad(f"masks of {track.name!r} are {track.masks.shape}, frames are "
                          f"{(count, height, width)}", "Resize the masks to the frames")
            if track.boxes.shape != (count, 4):
                raise bad(f"boxes of {track.name!r} are {track.boxes.shape}", "Give one a frame")
        for segment in self.camera:
            unknown = set(segment.moves) - set(MOVES)
            if unknown:
                raise bad(f"unknown camera moves {sorted(unknown)}", f"Known: {MOVES}")

    @property
    def dynamic(self) -> Track | None:
        """The main moving thing."""
        return next((t for t in self.tracks if t.role == "dynamic"), None)

    @property
    def landmark(self) -> Track | None:
        """The main static thing."""
        return next((t for t in self.tracks if t.role == "static"), None)
