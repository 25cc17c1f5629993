"""Specifies the scenes to sample."""

from __future__ import annotations

import dataclasses

from fourd4d.core.errors import InputError

PLAIN_KINDS = ("camera", "direction", "distance", "speed", "box_direction")
RELATIONS = ("destination", "vacated")  # Several things move; one is found by another.
KINDS = (*PLAIN_KINDS, *RELATIONS, "lookalike")  # Of the last, all that moves looks alike.


@dataclasses.dataclass(frozen=True)
class SceneSpec:
    """Distribution of simulated clips.

    Attributes:
      height, width: pixels.
      frames: frames of a clip.
      fps: frames a second.
      focal: focal length in frame heights.
      fine: rays along a pixel's side.
      things: maximum number of objects in a scene: a moving one, a landmark, bystanders.
      kinds, weights: question types that clips are made for, and how often.
      moving_camera: share of object clips in which the camera pans or tilts; in those of
        ``destination``, ``vacated`` and ``lookalike`` it stands still.
      combos: share of camera clips with two moves at once.
      spans: maximum number of successive camera moves in a camera clip.
      movers: maximum number of moving objects; all but the first move in any direction.
      occlusion: whether objects may occlude each other, and moving ones leave the frame.
      shake: handheld shake, degrees of rotation (and as many centimetres of translation).
      detail: strength of fine texture on ground, hills and objects, 0 … 1.
      fog: maximum fog; share of light lost per 10 m, 0 … 1.
      blur: longest shutter, share of the time between frames; ``blur_steps`` moments are averaged.
      noise: maximum sensor noise, standard deviation in levels of 255.
      crf: H.264 quality factor of a round trip through the codec; 0 leaves it out.
    """

    height: int = 64
    width: int = 64
    frames: int = 8
    fps: float = 2.0
    focal: float = 0.866
    fine: int = 2
    things: int = 3
    kinds: tuple[str, ...] = PLAIN_KINDS
    weights: tuple[float, ...] = (0.25, 0.40, 0.15, 0.10, 0.10)
    moving_camera: float = 0.15
    combos: float = 0.0
    spans: int = 1
    movers: int = 1
    occlusion: bool = False
    shake: float = 0.0
    detail: float = 0.0
    fog: float = 0.0
    blur: float = 0.0
    blur_steps: int = 4
    noise: float = 0.0
    crf: int = 0

    @property
    def rich(self) -> bool:
        """Whether the renderer needs more than plain surfaces."""
        return self.detail > 0 or self.fog > 0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or len(self.kinds) != len(self.weights) or not sum(self.weights) > 0:
            raise InputError("SceneSpec.kinds", f"{self.kinds} with weights {self.weights}",
                             f"Give one weight a kind, kinds from {KINDS}")
        if "vacated" in self.kinds and (self.movers < 2 or self.things < 3):
            raise InputError("SceneSpec.movers", f"{self.movers} of {self.things} things move, and "
                             "none takes another's place", "Give movers=2, things=3 or more")
        if "lookalike" in self.kinds and not 2 <= self.movers <= min(4, self.things - 1):
            raise InputError("SceneSpec.movers", f"{self.movers} of {self.things} things move, and "
                             "those that look alike start in quarters of their own",
                             "Give movers=2 to 4, and more things")
        if self.frames < 4 or self.things < 2:
            raise InputError("SceneSpec", f"{self.frames} frames, {self.things} things",
                             "At least 4 frames and 2 things are needed")
