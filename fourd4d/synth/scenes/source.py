"""Simulated scenes as clips, with every label known exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from fourd4d.synth.clip import CameraSegment, Clip, Track
from fourd4d.synth.scenes.draw import Drawn, draw, wanted_pool
from fourd4d.synth.scenes.render import render
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.scenes.world import to_camera

_BATCH = 16


def clips(spec: SceneSpec, seed: int, start: int, count: int,
          prefix: str = "scene") -> Iterator[Clip]:
    """Clips number ``start`` … ``start + count - 1`` of the sequence that ``seed`` names.

    A clip depends on its number and the seed alone, not on how the sequence is cut.
    """
    for base in range(start, start + count, _BATCH):
        numbers = range(base, min(base + _BATCH, start + count))
        drawn = [_draw(spec, seed, number) for number in numbers]
        # One batch size, one compiled program: the last batch is filled up.
        scenes = [d.scene for d in drawn] + [drawn[-1].scene] * (_BATCH - len(drawn))
        images, masks, depth = render(scenes, spec.height, spec.width, spec.fine)
        for i, (number, one) in enumerate(zip(numbers, drawn, strict=True)):
            yield label(one, images[i], masks[i], depth[i], spec.fps, f"{prefix}{number:06d}")


def _draw(spec: SceneSpec, seed: int, number: int) -> Drawn:
    rng = np.random.default_rng((seed, number))
    weights = np.array(spec.weights) / np.sum(spec.weights)
    kind = spec.kinds[rng.choice(len(spec.kinds), p=weights)]
    pool = wanted_pool(kind)
    return draw(rng, spec, kind, pool[rng.integers(len(pool))])


def boxes_of(masks: Bool[np.ndarray, "T H W"]) -> Float[np.ndarray, "T 4"]:
    """Boxes around the masks, fractions of the frame; NaN where a mask is empty."""
    frames, height, width = masks.shape
    out = np.full((frames, 4), np.nan, np.float32)
    for i, mask in enumerate(masks):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(ys):
            out[i] = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return out


def label(drawn: Drawn, images: np.ndarray, masks: np.ndarray, depth: np.ndarray, fps: float,
          video_id: str) -> Clip:
    """The clip of a rendered scene: tracks, camera and poses from the scene itself."""
    scene = drawn.scene
    times = np.arange(len(images)) / fps
    tracks: list[Track] = []
    turn = scene.poses[0, :3, :3]
    for i, name in enumerate(drawn.names):
        if scene.half[i, 0] <= 0:
            continue
        world = scene.centers[:, i]
        speed = np.gradient(world, times, axis=0)
        tracks.append(Track(
            name=name, role="dynamic" if i == 0 else "static", boxes=boxes_of(masks[:, i]),
            masks=masks[:, i], depth=to_camera(scene.poses, world)[:, 2],
            velocity=np.einsum("tji,tj->ti", scene.poses[:, :3, :3], speed), source="scenes",
            centers=(world - scene.poses[0, :3, 3]) @ turn,
        ))  # fmt: skip
    return Clip(
        video_id=video_id, frames=images, timestamps=times, tracks=tuple(tracks),
        camera=_segments(drawn, times), poses=scene.poses,
        provenance={"source": "scenes", "camera": "truth", "objects": "truth", "scale": "metric",
                    "kind": drawn.kind, "wanted": drawn.wanted},
    )  # fmt: skip


def _segments(drawn: Drawn, times: Sequence[float] | np.ndarray) -> tuple[CameraSegment, ...]:
    return (CameraSegment(float(times[0]), float(times[-1]), drawn.moves),)
