"""What is true of a row's mental images: target latents, places, sizes, velocities, names.

Everything comes from the row's own overlays and masks; the manifest that synthesis leaves beside
them, where there is one, names the things of each clip and tells where the others are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, UInt8

from fourd4d.core.batch import OverlayInput, VisionInput
from fourd4d.core.errors import DiskFullError, InputError, one_line
from fourd4d.core.example import Example
from fourd4d.core.storage import as_path
from fourd4d.data.collate import bucketed_shape, collate
from fourd4d.data.media import overlay_masks, plain_frames, row_media
from fourd4d.data.source import Row, Source
from fourd4d.eval.items import Item
from fourd4d.eval.probes.recordings import ArrayStore
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.parallel import use
from fourd4d.parallel.hosts import batch_shardings
from fourd4d.synth.dataset import manifest
from fourd4d.synth.overlay import overlay

_NEAR = 0.06  # Of the frame: a track's centre is a mask's where they are closer.
Masks = list[Bool[np.ndarray, "H W"]]


@dataclasses.dataclass(frozen=True)
class Track:
    """A thing of a clip: its name, and its centre in each frame, as fractions (x, y)."""

    name: str
    points: Float[np.ndarray, "T 2"]


def read_tracks(data: str | Path) -> dict[str, list[Track]]:
    """Things by clip, from the manifest beside ``data``; empty without one."""
    path = as_path(data)
    try:
        entries = manifest.read_entries(path if path.is_dir() else path.parent)
    except (InputError, OSError):
        return {}
    found = {}
    for entry in entries.values():
        for clip, drawn in entry.drawing.items():
            found[clip] = [Track(one["name"], np.asarray(one["points"], float).reshape(-1, 2))
                           for one in drawn.get("tracks", ())]
    return found


def centre(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "2"]:
    """Middle of the mask's box, fractions (x, y). NaN for an empty one."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return np.full(2, np.nan)
    return np.array([(xs[0] + xs[-1] + 1) / 2 / mask.shape[1],
                     (ys[0] + ys[-1] + 1) / 2 / mask.shape[0]])


def facts(masks: Masks, times: Sequence[float]) -> dict[str, np.ndarray]:
    """Place (x, y), size (side of a square of the mask's area) and velocity, by mental image.

    Fractions of the frame, and of it a second; NaN where unknown.
    """
    place = np.array([centre(mask) for mask in masks]).reshape(-1, 2)
    size = np.sqrt(np.array([[mask.mean()] for mask in masks])).reshape(-1, 1)
    velocity: Any = np.full_like(place, np.nan)
    if len(times) == len(masks) > 1 and np.all(np.diff(times) > 0):
        velocity = np.gradient(place, np.asarray(times, float), axis=0)
    return {"place": place, "size": size, "velocity": velocity}


def _frames_of(row: Row) -> list[int]:
    """The frame that each overlay was painted on."""
    times = np.asarray(row.sample.timestamps)
    return [int(np.argmin(np.abs(times - time))) for time in row.sample.overlay_timestamps]


def _at(tracks: Sequence[Track], row: Row) -> list[tuple[str, np.ndarray]]:
    """Names and centres, at the overlays' times, of tracks that are seen in every frame."""
    frames = _frames_of(row)
    return [(t.name, t.points[frames]) for t in tracks if len(t.points) == len(row.sample.frames)]


def name_of(tracks: Sequence[Track], row: Row, places: Float[np.ndarray, "O 2"]) -> str:
    """Which track the masks show; empty where that is not clear."""
    near = [name for name, points in _at(tracks, row)
            if np.abs(points - places).max(initial=0) < _NEAR]
    return near[0] if len(near) == 1 else ""


def wrong_masks(masks: Masks, row: Row, tracks: Sequence[Track]) -> Masks:
    """The outlines moved onto another thing of the clip; mirrored where none is known."""
    places = np.array([centre(mask) for mask in masks])
    others = [points for _, points in _at(tracks, row)
              if np.abs(points - places).max(-1).min() >= _NEAR]
    wanted = others[0] if others else 1 - places
    moved = []
    for mask, place, goal in zip(masks, places, wanted, strict=True):
        size = np.array(mask.shape[::-1])
        shift = np.rint((goal - place) * size).astype(int)
        if not others and np.abs(shift / size).max() < 0.25:  # The middle mirrors onto itself.
            shift = (size // 2).astype(int)
        moved.append(np.roll(mask, (shift[1], shift[0]), (0, 1)))
    return moved


def stripped(example: Example) -> Example:
    """The example with its overlays' slots and no more, for batches of targets."""
    extra = () if example.plain_slot is None else tuple(example.plain_slot)
    slots = [*example.overlay_slot, *extra]
    count = len(example.overlay_slot)
    one = slice(0, 1)
    return dataclasses.replace(
        example, tokens=example.tokens[one], positions=example.positions[:, one],
        text_weights=example.text_weights[one], vision_slot=np.full(1, -1, np.int32),
        vision_offset=np.full(1, -1, np.int32), latent_index=np.full(1, -1, np.int32),
        slots=type(example.slots)(example.slots.patches[slots], example.slots.coords[slots],
                                  example.slots.mask[slots]),
        overlay_slot=np.arange(count, dtype=np.int32),
        plain_slot=(None if example.plain_slot is None
                    else np.arange(count, 2 * count, dtype=np.int32)),
        reader_sees=None if example.reader_sees is None else example.reader_sees[one],
        reader_speaks=None if example.reader_speaks is None else example.reader_speaks[one])


@functools.partial(jax.jit, static_argnums=0)
def _pooled(graphdef: Any, states: tuple[Any, ...], vision: VisionInput, overlays: OverlayInput
            ) -> Float[jax.Array, "B Q D"]:
    model = nnx.merge(graphdef, *states)
    return model.pool(model.encode(vision), overlays)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """An item's examples of true and of wrong overlays, and what else is known."""

    item: Item
    true: Example
    wrong: Example | None
    known: Mapping[str, Any]


def _wanted(row: Row, item: Item, subject: Subject, spec: EvalSpec,
            tracks: Mapping[str, Sequence[Track]]) -> _Wanted:
    sample, processor = row.sample, subject.processor
    protocol = processor.protocol
    if not sample.overlays:
        raise InputError(row.where, "no overlays", "Give DIFT rows")
    media, overlays = row_media(row, protocol, assumed_fps=spec.assumed_fps or None)
    needs: dict[str, Any] = {}
    if protocol.target is not None:
        needs["plains"] = plain_frames(row)
    masks: Masks = []
    if protocol.region is not None or (row.record is None
                                       and len(sample.masks) == len(sample.overlays)):
        masks = overlay_masks(row)
    if protocol.region is not None:
        needs["masks"] = masks

    def example(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], masks: Masks) -> Example:
        painted = {**needs, "masks": masks} if "masks" in needs else needs
        return stripped(processor.example(sample.text_input, media, sample.response, pictures,
                                          **painted))

    true, wrong, known = example(overlays, masks), None, {}
    if masks:
        known = facts(masks, sample.overlay_timestamps)
        around = tracks.get(sample.video_id, ())
        if len(sample.overlay_timestamps) == len(masks) and sample.timestamps:
            known["name"] = np.array(name_of(around, row, known["place"]))
            with contextlib.suppress(InputError):  # Without the plain frames there is no wrong one.
                moved = wrong_masks(masks, row, around)
                wrong = example([overlay(frame, mask) for frame, mask in
                                 zip(plain_frames(row), moved, strict=True)], moved)
    return _Wanted(item, true, wrong, known)


def record_targets(
    subject: Subject, source: Source, items: Iterable[Item], spec: EvalSpec, store: ArrayStore,
    tracks: Mapping[str, Sequence[Track]] | None = None,
    failed: Callable[[Item, str], None] = lambda item, why: None,
) -> Iterator[Item]:
    """Saves what is true of each item that the store lacks; yields the items one by one.

    An item's arrays are ``targets`` (Q, D), ``wrong`` (Q, D) where another thing could be painted,
    ``place``, ``size``, ``velocity``, ``name`` where masks travel with the row. An item without
    overlays, or with unreadable ones, is left out after ``failed`` was told.
    """
    waiting: list[_Wanted] = []
    for item in items:
        if item.key not in store:
            try:
                waiting.append(_wanted(source[item.number], item, subject, spec, tracks or {}))
            except Exception as error:
                if isinstance(error, DiskFullError):
                    raise
                failed(item, one_line(error))
                yield item
        else:
            yield item
        if len(waiting) >= max(1, spec.rows // 2):
            yield from _saved(subject, waiting, store, failed)
            waiting = []
    yield from _saved(subject, waiting, store, failed)


def _saved(subject: Subject, wanted: list[_Wanted], store: ArrayStore,
           failed: Callable[[Item, str], None]) -> Iterator[Item]:
    if not wanted:
        return
    examples = [one.true for one in wanted] + [one.wrong for one in wanted if one.wrong is not None]
    try:
        pooled = _targets(subject, examples)
    except Exception as error:
        if len(wanted) > 1:  # A guilty one fails alone.
            for one in wanted:
                yield from _saved(subject, [one], store, failed)
            return
        failed(wanted[0].item, one_line(error))
        yield wanted[0].item
        return
    wrong = iter(pooled[len(wanted) :])
    for one, targets in zip(wanted, pooled, strict=False):
        arrays = {"targets": targets, **one.known}
        if one.wrong is not None:
            arrays["wrong"] = next(wrong)
        store.save(one.item.key, **arrays)
        yield one.item


def _targets(subject: Subject, examples: list[Example]) -> list[np.ndarray]:
    """Target latents of each example, (Q, D), float32."""
    protocol = subject.processor.protocol
    shape = bucketed_shape(examples)
    split = 1 if subject.mesh is None else subject.mesh.devices.size
    shape = dataclasses.replace(shape, rows=-(-shape.rows // split) * split)
    batch = collate(examples, shape, protocol)
    with contextlib.nullcontext() if subject.mesh is None else use(subject.mesh):
        if subject.mesh is not None:
            batch = jax.device_put(batch, batch_shardings(batch, subject.mesh))
        found = np.asarray(_pooled(subject.graphdef, subject.states, batch.vision, batch.overlays))
    return [found[i, : len(one.overlay_slot) * protocol.latent_size]
            for i, one in enumerate(examples)]
