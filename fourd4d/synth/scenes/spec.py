"""What kind of scenes to draw."""

from __future__ import annotations

import dataclasses

from fourd4d.core.errors import InputError

KINDS = ("camera", "direction", "distance", "speed", "box_direction")


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """Distribution of simulated clips.

    Attributes:
      height, width: pixels.
      frames: frames of a clip.
      fps: frames a second.
      focal: focal length in frame heights.
      fine: rays along a pixel's side.
      things: most solids in a scene: a moving one, a landmark, bystanders.
      kinds, weights: what clips are made to show, and how often.
      moving_camera: share of object clips in which the camera pans or tilts.
      combos: share of camera clips with two moves at once.
    """

    height: int = 64
    width: int = 64
    frames: int = 8
    fps: float = 2.0
    focal: float = 0.866
    fine: int = 2
    things: int = 3
    kinds: tuple[str, ...] = KINDS
    weights: tuple[float, ...] = (0.25, 0.40, 0.15, 0.10, 0.10)
    moving_camera: float = 0.15
    combos: float = 0.0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or len(self.kinds) != len(self.weights) or not sum(self.weights) > 0:
            raise InputError("SceneSpec.kinds", f"{self.kinds} with weights {self.weights}",
                             f"Give one weight a kind, kinds from {KINDS}")
        if self.frames < 4 or self.things < 2:
            raise InputError("SceneSpec", f"{self.frames} frames, {self.things} things",
                             "At least 4 frames and 2 things are needed")
