"""Renders simulated scenes as clips, with exact labels."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourd4d.synth.clip import MOVES, CameraSegment, Clip, Track
from fourd4d.synth.simulator.codec import decode_frames, encode_video
from fourd4d.synth.simulator.counterfactuals import CHANGES, changes_of
from fourd4d.synth.simulator.render import load, render
from fourd4d.synth.simulator.sample_scene import THEN, SampledScene, sample_scene, wanted_pool
from fourd4d.synth.simulator.scene import Scene, project, to_camera
from fourd4d.synth.simulator.spec import SceneSpec

_RAYS = 16 * 8 * 128 * 128  # Maximum rays of a batch; limits memory as frames grow.


@dataclasses.dataclass(frozen=True)
class PlannedClips:
    """A clip, and the same with one fact changed where one can be, drawn when they are asked for.

    Attributes:
      video_id: the first one's name.
      render: gives the clip, or both. Those planned side by side are drawn together, once.
      change: a name of ``counterfactuals.CHANGES``; empty for a single clip.
    """

    video_id: str
    render: Callable[[], tuple[Clip, ...]]
    change: str = ""


def plan_clips(spec: SceneSpec, seed: int, start: int, count: int,
               prefix: str = "scene") -> Iterator[PlannedClips]:
    """Yield clips number ``start`` … ``start + count - 1`` of the sequence of ``seed``.

    A clip depends on its number and the seed only, not on how the sequence is split.
    """
    entries = ((number, f"{prefix}{number:06d}", functools.partial(_draw, spec, seed, number))
               for number in range(start, start + count))
    for name, render_one in _planned(spec, seed, entries):
        yield PlannedClips(name, lambda one=render_one: (one(),))


def simulate_clips(spec: SceneSpec, seed: int, start: int, count: int,
                   prefix: str = "scene") -> Iterator[Clip]:
    """Yield the clips of ``plan_clips``."""
    for planned in plan_clips(spec, seed, start, count, prefix):
        yield from planned.render()


def plan_pairs(spec: SceneSpec, seed: int, start: int, count: int, changes: Sequence[str],
               prefix: str = "scene") -> Iterator[PlannedClips]:
    """Yield the clips of ``plan_clips``, each with its counterpart.

    A counterpart is named like its clip, with ``_`` and the change after it. Which of several
    possible changes is made goes round by the clip's number.

    Args:
      changes: names of ``counterfactuals.CHANGES``.
    """
    made: list[str] = []

    def entries() -> Iterator[tuple[int, str, Callable[[], SampledScene]]]:
        for number in range(start, start + count):
            drawn, name = _draw(spec, seed, number), f"{prefix}{number:06d}"
            possible = changes_of(drawn, changes)
            made.append(possible[number % len(possible)] if possible else "")
            yield number, name, lambda one=drawn: one
            if made[-1]:
                yield number, f"{name}_{made[-1]}", functools.partial(CHANGES[made[-1]], drawn)

    clips = _planned(spec, seed, entries())
    for number, (name, one) in enumerate(clips):
        own = [one, next(clips)[1]] if made[number] else [one]
        yield PlannedClips(name, lambda own=own: tuple(draw() for draw in own), made[number])


def _planned(spec: SceneSpec, seed: int,
             entries: Iterator[tuple[int, str, Callable[[], SampledScene]]]
             ) -> Iterator[tuple[str, Callable[[], Clip]]]:
    """Names and clips of (number, name, scene); the first of a batch to be asked for draws all."""
    size = batch_size(spec)

    def batch(scenes: Sequence[Callable[[], SampledScene]]) -> tuple[Any, ...]:
        drawn = [one() for one in scenes]
        # One batch size, one compiled program: the last batch is filled up.
        return drawn, *_images(drawn + [drawn[-1]] * (size - len(drawn)), spec)

    def clip(drawn_batch: Callable[[], tuple[Any, ...]], i: int, number: int, name: str) -> Clip:
        drawn, images, masks = drawn_batch()
        frames = camera_effects(images[i], spec, np.random.default_rng((seed, number, 1)))
        return label(drawn[i], frames, masks[i], spec.fps, name)

    while part := list(itertools.islice(entries, size)):
        together = functools.cache(functools.partial(batch, [draw for _, _, draw in part]))
        for i, (number, name, _) in enumerate(part):
            yield name, functools.partial(clip, together, i, number, name)


def batch_size(spec: SceneSpec) -> int:
    """Return how many clips one call of the renderer draws."""
    rays = spec.frames * spec.height * spec.width * spec.fine**2
    return int(np.clip(max(_RAYS, load().plain_rays) // rays, 1, load().clips))


def scene(spec: SceneSpec, seed: int, number: int) -> Scene:
    """Return the scene of clip number ``number`` of the sequence of ``seed``."""
    return _draw(spec, seed, number).scene


def _images(drawn: Sequence[SampledScene], spec: SceneSpec) -> tuple[np.ndarray, np.ndarray]:
    """Render frames and masks; a frame is the mean over the time the shutter is open."""
    scenes = [d.scene for d in drawn]
    images, masks, _ = render(scenes, spec.height, spec.width, spec.fine)
    if spec.blur:
        total = np.square(images, dtype=np.float32)
        for step in range(1, spec.blur_steps):
            late = [_later(s, spec.blur * step / spec.blur_steps) for s in scenes]
            total += np.square(render(late, spec.height, spec.width, spec.fine)[0],
                               dtype=np.float32)  # Light adds up, not its encoding.
        images = np.sqrt(total / spec.blur_steps).round().astype(np.uint8)
    return images, masks


def _later(scene: Scene, share: float) -> Scene:
    """Return the scene a share of a frame's time later, by linear motion between frames."""

    def ahead(values: np.ndarray) -> np.ndarray:
        step = np.diff(values, axis=0)
        return values + share * np.concatenate([step, step[-1:]])

    poses = ahead(scene.poses)
    left, _, right = np.linalg.svd(poses[:, :3, :3])
    poses[:, :3, :3] = left @ right
    return dataclasses.replace(scene, poses=poses, centers=ahead(scene.centers))


def camera_effects(frames: UInt8[np.ndarray, "T H W 3"], spec: SceneSpec,
                   rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """Add sensor noise, then encode and decode as H.264, as the spec says."""
    if spec.noise:
        sigma = rng.uniform(0, spec.noise)
        grain = rng.standard_normal(frames.shape, np.float32) * sigma
        frames = np.clip(frames + grain, 0, 255).round().astype(np.uint8)
    if spec.crf:
        frames = decode_frames(encode_video(frames, spec.fps, spec.crf))
    return frames


def _draw(spec: SceneSpec, seed: int, number: int) -> SampledScene:
    rng = np.random.default_rng((seed, number))
    weights = np.array(spec.weights) / np.sum(spec.weights)
    kind = spec.kinds[rng.choice(len(spec.kinds), p=weights)]
    pool = wanted_pool(kind)
    wanted = pool[rng.integers(len(pool))]
    if kind == "camera" and spec.combos and rng.random() < spec.combos:
        axes = rng.choice(6, 2, replace=False)
        wanted = " + ".join(MOVES[2 * a + rng.integers(2)] for a in sorted(axes))
    if kind == "camera" and spec.spans > 1:
        for _ in range(rng.integers(spec.spans)):
            others = [m for m in MOVES if m not in wanted]
            wanted += THEN + others[rng.integers(len(others))]
    return sample_scene(rng, spec, kind, wanted)


def boxes_of(masks: Bool[np.ndarray, "T H W"]) -> Float[np.ndarray, "T 4"]:
    """Return boxes around the masks, fractions of the frame; NaN where a mask is empty."""
    frames, height, width = masks.shape
    out = np.full((frames, 4), np.nan, np.float32)
    for i, mask in enumerate(masks):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(ys):
            out[i] = (xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height)
    return out


def label(drawn: SampledScene, images: np.ndarray, masks: np.ndarray, fps: float,
          video_id: str) -> Clip:
    """Return the clip of a rendered scene; tracks, camera and poses are the scene's own."""
    scene = drawn.scene
    times = np.arange(len(images)) / fps
    tracks: list[Track] = []
    rotation = scene.poses[0, :3, :3]
    for i, name in enumerate(drawn.names):
        if scene.half[i, 0] <= 0:
            continue
        world = scene.centers[:, i]
        tracks.append(Track(
            name=name, role="dynamic" if i in drawn.movers else "static",
            boxes=boxes_of(masks[:, i]), masks=masks[:, i],
            depth=to_camera(scene.poses, world)[:, 2], source="scenes",
            centers=(world - scene.poses[0, :3, 3]) @ rotation,
        ))
    tracks.sort(key=lambda track: track.role != "dynamic")
    return Clip(
        video_id=video_id, frames=images, timestamps=times, tracks=tuple(tracks),
        camera=_segments(drawn, times), poses=scene.poses,
        provenance={"source": "scenes", "camera": "truth", "objects": "truth", "scale": "metric",
                    "kind": drawn.kind, "wanted": drawn.wanted},
    )


def _segments(drawn: SampledScene, times: Float[np.ndarray, "T"]) -> tuple[CameraSegment, ...]:
    cuts = np.linspace(times[0], times[-1], len(drawn.moves) + 1)
    return tuple(CameraSegment(float(a), float(b), moves)
                 for a, b, moves in zip(cuts, cuts[1:], drawn.moves, strict=False))


def outline(spec: SceneSpec, seed: int, number: int, prefix: str = "outline",
            change: str = "") -> Clip:
    """Return clip number ``number`` with its labels but without frames: boxes from geometry.

    For counting answers over thousands of clips. Boxes bound the solids, so they are slightly
    larger than those of rendered masks; frames and masks are empty, one pixel high.

    Args:
      change: makes it the clip's counterpart, see ``simulate_pairs``.
    """
    drawn = _draw(spec, seed, number)
    if change:
        drawn, prefix = CHANGES[change](drawn), f"{prefix}_{change}"
    scene = drawn.scene
    aspect = spec.width / spec.height
    blank = np.zeros((spec.frames, 1, 1, 3), np.uint8)
    masks = np.zeros((spec.frames, len(drawn.names), 1, 1), bool)
    clip = label(drawn, blank, masks, spec.fps, f"{prefix}{number:06d}")
    kept = [i for i in range(len(drawn.names)) if scene.half[i, 0] > 0]
    kept.sort(key=lambda i: i not in drawn.movers)  # As the tracks are; names may be shared.
    tracks = []
    for i, track in zip(kept, clip.tracks, strict=True):
        local = to_camera(scene.poses, scene.centers[:, i])
        middle = project(local, scene.focal, aspect)
        reach = scene.focal * scene.half[i].max() / np.maximum(local[:, 2:], 1e-3)
        reach = reach / np.array([aspect, 1.0])
        boxes = np.concatenate([middle - reach, middle + reach], 1).clip(0, 1)
        tracks.append(dataclasses.replace(track, boxes=boxes.astype(np.float32)))
    return dataclasses.replace(clip, tracks=tuple(tracks))
