"""Segments moving objects: regions of motion evidence, linked over time and cut out tightly.

Regions of single frames are linked by overlap, after the camera's motion and the object's own are
removed, and by colour. An object must move or change its size against the static scene: what only
flickers in place, such as the ghost of an object that has left, is dropped. Each kept object is
cut out with GrabCut, which starts from its motion evidence and its colours over the whole clip.
Optical flow then extends its masks into frames with little evidence or none.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import gaussian_filter

from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.objects import linking, mask_motion
from fourd4d.synth.objects.color_regions import above, find_color_regions

_NUM_COLOR_CLASSES = 6 * 16 * 16
_COLOR_MARGIN = 0.2  # Least difference of two Bhattacharyya coefficients that decides.
_MIN_REGION_GROWTH = 1.1  # Ratio of sizes of regions from which masks may grow enough.
_MAX_SHADOW_SHARE = 0.5  # Share of pixels lit otherwise; below 0.4 on objects.
_MAX_FIXED_DRIFT = 0.004  # Of what is fixed to the frame, share of the diagonal.
_CLEAR_EVIDENCE = 2.0  # Mean motion evidence above which a region is not flicker.
_MIN_WARPED_IOU = 0.5  # Of a mask with its neighbour's, warped by the flow.


@dataclasses.dataclass(frozen=True)
class MotionSegmentationSpec:
    """Thresholds; lengths are shares of the frame's diagonal, areas shares of the frame.

    Attributes:
      keep: maximum number of moving objects of a clip.
      smallest, largest: area of a region.
      body: maximum area of a region that shows motion evidence at its edges only.
      gap: distance across which fragments are one region.
      lost: seconds an object may be unseen.
      lasting: minimum share of the frames from its first to its last in which an object is found.
      seconds: minimum time from the first to the last.
      travel: minimum displacement against the scene, or
      growth: minimum ratio of the largest to the smallest size.
    """

    keep: int = 6
    smallest: float = 0.0012
    largest: float = 0.5
    body: float = 0.15
    gap: float = 0.012
    lost: float = 0.7
    lasting: float = 0.5
    seconds: float = 1.0
    travel: float = 0.03
    growth: float = 1.25


@dataclasses.dataclass
class MovingObject:
    """An object tracked through M frames.

    Attributes:
      masks: (M, H, W); all False in frames in which it is not found.
      evidence: mean motion evidence over its masks.
      displacement: largest one against the scene, a share of the diagonal.
    """

    masks: np.ndarray
    evidence: float
    displacement: float

    @property
    def found(self) -> np.ndarray:
        """In which frames it is found, (M,)."""
        return np.asarray(self.masks.any((1, 2)))

    @property
    def area(self) -> np.ndarray:
        """Share of each frame that it covers, (M,)."""
        return self.masks.mean((1, 2))


@dataclasses.dataclass
class _Region:
    mask: np.ndarray
    box: tuple[int, int, int, int]
    centre: np.ndarray
    area: float
    own: np.ndarray  # Surely the object, not the background that it uncovers.
    colours: np.ndarray
    strength: float


def find_moving(
    frames: UInt8[np.ndarray, "M H W 3"],
    times: Float[np.ndarray, "M"],
    chosen: Int[np.ndarray, "M"],
    evidence: Float[np.ndarray, "M H W"],
    *,
    background: UInt8[np.ndarray, "M H W 3"],
    flow: Float[np.ndarray, "M-1 H W 2"],
    motion: CameraMotion,
    spec: MotionSegmentationSpec | None = None,
) -> list[MovingObject]:
    """Return the moving objects of a clip, the most prominent first.

    Args:
      frames, times: the keyframes, and their times in seconds.
      chosen: their indices among the frames that ``motion`` was estimated from.
      evidence: motion evidence; above 1 where something moves by itself.
      background: median over the other frames, as seen from each keyframe.
      flow: ``mask_motion.backward_flow`` of the keyframes, pixels.
    """
    spec = spec or MotionSegmentationSpec()
    codes, background_codes = (np.stack([_color_codes(f) for f in images])
                               for images in (frames, background))
    # Where the camera translates, an object's inside fits some depth: only its edges are evidence.
    filled = [find_color_regions(f, e, spec.smallest, spec.body) if motion.kind == "moving" else []
             for f, e in zip(frames, evidence)]
    regions = [_regions(c, e, b, spec) for c, e, b in zip(codes, evidence, filled)]
    chains = _link_regions(regions, times, chosen, motion, spec)
    diagonal = float(np.hypot(*frames.shape[1:3]))
    enough = min(spec.seconds, 0.6 * float(times[-1] - times[0]))
    candidates = []
    for chain in chains:
        seconds = times[max(chain)] - times[min(chain)]
        if seconds < enough or not _is_persistent(np.array(list(chain)), spec):
            continue
        pixels, growth = _displacement_and_growth(chain, chosen, motion)
        displacement = pixels / diagonal
        area = np.median([r.area for r in chain.values()])
        strength = np.mean([min(r.strength, 4.0) for r in chain.values()])
        grows = growth >= _MIN_REGION_GROWTH and area >= 3 * spec.smallest and strength >= 1.2
        # Clear evidence in nearly all frames allows a smaller displacement.
        clear = strength >= _CLEAR_EVIDENCE and len(chain) >= 0.8 * len(times)
        least = (0.7 if clear else 1.0) * spec.travel
        if displacement < least and not grows:
            continue
        shadow = np.mean([_shadow_share(frames[m], background[m], evidence[m], r)
                          for m, r in chain.items()])
        if shadow > _MAX_SHADOW_SHARE:
            continue
        ghost = np.mean([_uncovered_background(codes[m], background_codes[m], evidence[m], r)
                         for m, r in chain.items()])
        if ghost > _COLOR_MARGIN:
            continue
        score = len(chain) / len(times) * np.sqrt(area) * strength * (displacement + 0.1)
        candidates.append((score, displacement, displacement >= least, chain))
    candidates.sort(key=lambda item: -item[0])
    out: list[MovingObject] = []
    for score, displacement, moves, chain in candidates[: spec.keep]:
        if score < 0.02 * candidates[0][0]:
            break
        log_ratio = _color_log_ratio(evidence, codes, background_codes, chain)
        here, there = log_ratio[codes], log_ratio[background_codes]
        shown = np.where(there - here > 1.0, 0, evidence)  # Not where the object has left.
        masks = _segment_object(frames, shown, here, chain)
        masks = _extend_by_flow(masks, frames, shown, here, flow)
        if any(_is_duplicate(masks, other.masks) for other in out):
            continue
        if not moves and _scale_growth(masks) < spec.growth:
            continue
        if motion.kind != "still" and displacement > 2 * spec.travel and _is_fixed_to_frame(masks):
            continue
        if _is_persistent(np.flatnonzero(masks.any((1, 2))), spec):
            strength = float(np.mean([r.strength for r in chain.values()]))
            out.append(MovingObject(masks, strength, displacement))
    return out


def _is_persistent(found: np.ndarray, spec: MotionSegmentationSpec) -> bool:
    """Whether frames in which an object is found are enough of those from first to last."""
    return len(found) >= 4 and len(found) >= spec.lasting * float(np.ptp(found) + 1)


def _regions(codes: np.ndarray, evidence: np.ndarray, color_regions: list[np.ndarray],
             spec: MotionSegmentationSpec
             ) -> list[_Region]:
    """Return regions of evidence, the largest first; ``color_regions`` replace their edges."""
    height, width = evidence.shape
    diagonal = np.hypot(height, width)
    size = max(1, round(spec.gap * diagonal))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1,) * 2)
    strong, weak = above(evidence, 1.0), above(evidence, 0.5)
    _, labels = cv2.connectedComponents(weak)
    weak = np.isin(labels, np.unique(labels[strong > 0])[1:] if strong.any() else []) & (labels > 0)
    closed = cv2.morphologyEx((weak | (strong > 0)).astype(np.uint8), cv2.MORPH_CLOSE, disc)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    fragments = [_fill_fragment(c, evidence, codes) for c in contours
              if cv2.contourArea(c) >= 0.5 * spec.smallest * height * width]
    largest = sorted(fragments, key=lambda fragment: -fragment.mask.sum())[:12]
    fragments = _join_fragments(largest, evidence, codes)
    out = []
    for inside, own in _replace_edges(fragments, color_regions, evidence):
        area = float(inside.mean())
        if not spec.smallest <= area <= spec.largest:
            continue
        ys, xs = np.nonzero(inside)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        out.append(_Region(inside, box, np.array([xs.mean(), ys.mean()]), area,
                           own, _color_histogram(codes[own]),
                           float(np.minimum(evidence[inside], 6).mean())))
    return sorted(out, key=lambda r: -r.area)


def _replace_edges(fragments: list[_Fragment], color_regions: list[np.ndarray],
                   evidence: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return masks, and where in them surely the object is.

    Regions of one colour replace the fragments along their edges; other fragments stay.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for region in color_regions:
        near = cv2.dilate(region.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        edges = [p for p in fragments if (p.own & near).sum() >= 0.7 * p.own.sum()
                 and (p.mask & region).sum() < 0.7 * region.sum()]
        if edges and not any((region & other).any() for other, _ in found):
            found.append((region, region))
            fragments = [p for p in fragments if p not in edges]
    return found + [(p.mask, p.mask & (evidence > 1)) for p in fragments]


@dataclasses.dataclass(eq=False)
class _Fragment:
    """Connected evidence: the points of its outline, the mask that it fills, its own pixels."""

    points: np.ndarray
    mask: np.ndarray
    own: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        x, y, w, h = cv2.boundingRect(self.points)
        return x, y, x + w, y + h


def _fill_fragment(contour: np.ndarray, evidence: np.ndarray, codes: np.ndarray) -> _Fragment:
    own = np.zeros(evidence.shape, np.uint8)
    cv2.drawContours(own, [contour], -1, 1, -1)
    hull = cv2.convexHull(contour)
    if cv2.contourArea(hull) < 2.5 * cv2.contourArea(contour):
        mask = np.zeros_like(own)
        cv2.drawContours(mask, [hull], -1, 1, -1)
        return _Fragment(contour, mask > 0, own > 0)
    whole = _fill_hull(contour, own > 0, evidence, codes)
    return _Fragment(contour, own > 0 if whole is None else whole, own > 0)


def _join_fragments(fragments: list[_Fragment], evidence: np.ndarray, codes: np.ndarray
                    ) -> list[_Fragment]:
    """Join fragments of one object: those with their own colours between them.

    An object without much texture shows motion at its edges only, some of them apart.
    """
    fragments = list(fragments)
    again = True
    while again:
        again = False
        for i, j in itertools.combinations(range(len(fragments)), 2):
            one, other = fragments[i], fragments[j]
            if _box_gap(one.box, other.box) > min(_box_side(one.box), _box_side(other.box)):
                continue
            points = np.concatenate([one.points, other.points])
            mask = _fill_hull(points, one.own | other.own, evidence, codes)
            if mask is not None:
                fragments[i] = _Fragment(points, mask, one.own | other.own)
                del fragments[j]
                again = True
                break
    return fragments


def _box_gap(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return max(0, a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def _box_side(box: tuple[int, ...]) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _fill_hull(points: np.ndarray, own: np.ndarray, evidence: np.ndarray, codes: np.ndarray
            ) -> np.ndarray | None:
    """Return the hull of an object's edges; None where its inside looks like its surroundings."""
    hull = np.zeros(own.shape, np.uint8)
    cv2.drawContours(hull, [cv2.convexHull(points)], -1, 1, -1)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    inside = (hull > 0) & ~own
    around = (cv2.dilate(hull, wide) > 0) & (hull == 0) & (evidence < 0.5)
    edge = own & (evidence > 1)
    if inside.sum() < 12 or edge.sum() < 12:
        return None
    fill = _color_histogram(codes[inside])
    to_edge, to_around = (float(np.sqrt(fill * _color_histogram(codes[part])).sum())
                          for part in (edge, around))
    return hull > 0 if to_edge > to_around + _COLOR_MARGIN else None


def _color_codes(frame: np.ndarray) -> np.ndarray:
    """Return colour classes: fine hue and chroma, coarse lightness, which shading changes."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(np.int16)
    hue = np.clip((lab[..., 1:] - 128 + 64) // 8, 0, 15)
    return (lab[..., 0] * 6 // 256 * 16 + hue[..., 0]) * 16 + hue[..., 1]


def _color_histogram(codes: np.ndarray) -> np.ndarray:
    count = np.bincount(codes, minlength=_NUM_COLOR_CLASSES).astype(np.float32)
    count = gaussian_filter(count.reshape(6, 16, 16), (0.7, 0.8, 0.8), mode="nearest").ravel()
    return count / max(float(count.sum()), 1.0)


def _link_regions(
    regions: list[list[_Region]], times: np.ndarray, chosen: np.ndarray, motion: CameraMotion,
    spec: MotionSegmentationSpec,
) -> list[dict[int, _Region]]:
    """Link regions into chains of one region a frame; greedy, best links first."""
    open_chains: list[dict[int, _Region]] = []
    done: list[dict[int, _Region]] = []
    for m, found in enumerate(regions):
        alive = []
        for chain in open_chains:
            (alive if times[m] - times[max(chain)] <= spec.lost else done).append(chain)
        costs = []
        for c, chain in enumerate(alive):
            guess = linking.predict_centre({k: region.centre for k, region in chain.items()},
                                           m, times, chosen, motion)
            for r, region in enumerate(found):
                cost = _link_cost(chain[max(chain)], region, guess)
                if cost is not None:
                    costs.append((cost, c, r))
        linked = linking.match_greedily((c, r) for _, c, r in sorted(costs))
        for c, r in linked:
            alive[c][m] = found[r]
        taken = {r for _, r in linked}
        alive += [{m: region} for r, region in enumerate(found) if r not in taken]
        open_chains = alive
    return done + open_chains


def _link_cost(old: _Region, new: _Region, guess: np.ndarray) -> float | None:
    """Return the cost of a link; None where it is impossible."""
    ratio = new.area / old.area
    if not 1 / 3 < ratio < 3:
        return None
    shift = guess - old.centre
    x0, y0, x1, y1 = np.array(old.box) + np.tile(shift, 2)
    a0, b0, a1, b1 = new.box
    inter = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
    union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - inter
    near = np.linalg.norm(new.centre - guess) / np.sqrt(max((a1 - a0) * (b1 - b0), 1.0))
    colour = 1 - float(np.sqrt(old.colours * new.colours).sum())
    if inter / union < 0.1 and (near > 1.0 or colour > 0.6):
        return None
    return 1 - inter / union + 0.5 * near + colour + 0.3 * abs(np.log(ratio))


def _displacement_and_growth(chain: dict[int, _Region], chosen: np.ndarray, motion: CameraMotion
           ) -> tuple[float, float]:
    """Return the largest displacement against the scene, pixels, and the ratio of sizes."""
    first = min(chain)
    distances = []
    for m, region in chain.items():
        home = motion.place(int(chosen[first]), int(chosen[m]), chain[first].centre,
                            1 / motion.depth(int(chosen[first])))
        distances.append(np.linalg.norm(region.centre - home))
    return float(np.percentile(distances, 90)), _size_ratio([chain[m].area for m in sorted(chain)])


def _is_fixed_to_frame(masks: np.ndarray) -> bool:
    """Whether masks keep their position in the frame, as a caption over a moving scene."""
    middle = mask_motion.centres(masks)
    middle = middle[np.isfinite(middle[:, 0])]
    away = np.linalg.norm(middle - np.median(middle, axis=0), axis=1)
    # While it fades in or out, parts of it stand for the whole.
    return bool(np.percentile(away, 75) < _MAX_FIXED_DRIFT * np.hypot(*masks.shape[1:]))


def _scale_growth(masks: np.ndarray) -> float:
    """Return the growth of masks that do not touch the border; 1 where nothing is known.

    Evidence also shows where the object is at other times, so its regions grow less than it does.
    """
    whole = masks.any((1, 2)) & ~mask_motion.touches_border(masks)
    return _size_ratio(masks[whole].mean((1, 2)))


def _size_ratio(areas: Sequence[float] | np.ndarray) -> float:
    """Return the ratio of the largest to the smallest side, smoothed over three frames."""
    if len(areas) < 3:
        return 1.0
    sides = np.convolve(np.sqrt(areas), np.ones(3) / 3, "valid")
    return float(sides.max() / sides.min())


def _shadow_share(frame: np.ndarray, background: np.ndarray, evidence: np.ndarray,
                  region: _Region) -> float:
    """Return the share of a region that is its background under another light: a shadow's.

    Light changes all colours alike, and smoothly: the texture of the ground stays visible.
    """
    x0, y0, x1, y1 = region.box
    area = np.s_[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3]
    now, before = (cv2.blur(f[area].astype(np.float32), (3, 3)) + 4 for f in (frame, background))
    ratio = np.log(now / before)
    light = ratio.mean(-1)
    even = np.abs(cv2.blur(ratio - light[..., None], (3, 3))).max(-1) < 0.06
    smooth = cv2.blur(light * light, (7, 7)) - cv2.blur(light, (7, 7)) ** 2 < 0.09**2
    near = cv2.dilate(region.mask[area].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    shows = near & (evidence[area] > 1)
    return float(np.mean((even & smooth & (np.abs(light) < 0.9))[shows])) if shows.any() else 0.0


def _uncovered_background(codes: np.ndarray, background: np.ndarray, evidence: np.ndarray,
                          region: _Region) -> float:
    """Return how much better than its background a region fits its surroundings: a ghost's."""
    around = _surroundings(region, evidence)
    ring = _color_histogram(codes[around])
    now, before = (float(np.sqrt(_color_histogram(c[region.own]) * ring).sum())
                   for c in (codes, background))
    return now - before


def _surroundings(region: _Region, evidence: np.ndarray) -> np.ndarray:
    """Return the pixels around a region that show no motion evidence, (H, W)."""
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    near = cv2.dilate(region.mask.astype(np.uint8), wide) > 0
    return near & ~region.mask & (evidence < 0.5)


def _color_log_ratio(evidence: np.ndarray, codes: np.ndarray, background: np.ndarray,
                     chain: dict[int, _Region]) -> np.ndarray:
    """Return the log ratio of each colour class's frequency in an object and around it.

    ``codes`` and ``background`` are the colour classes of the frames and of their background.
    """
    log_ratio, around = np.zeros((2, _NUM_COLOR_CLASSES), np.float32)
    for m, region in chain.items():
        around += _color_histogram(codes[m][_surroundings(region, evidence[m])])
    for _ in range(2):
        own = np.zeros(_NUM_COLOR_CLASSES, np.float32)
        for m, region in chain.items():
            # The object has left where the background fits its colours better than the frame.
            left = log_ratio[background[m]] - log_ratio[codes[m]] > 0.5
            own += _color_histogram(codes[m][region.own & ~left])
        log_ratio = np.log((own / max(own.sum(), 1e-9) + 1e-4)
                        / (around / max(around.sum(), 1e-9) + 1e-4))
    return log_ratio


def _segment_object(frames: np.ndarray, evidence: np.ndarray, log_ratio: np.ndarray,
                    chain: dict[int, _Region]) -> Bool[np.ndarray, "M H W"]:
    """Return the masks of an object in the frames of its chain and in short gaps between."""
    height, width = frames.shape[1:3]
    masks = np.zeros((len(frames), height, width), bool)
    order = sorted(chain)
    for m in range(order[0], order[-1] + 1):
        before = max(k for k in order if k <= m)
        after = min(k for k in order if k >= m)
        seed = chain[m] if m in chain else None
        if seed is None and after - before > 4:
            continue
        share = 0.0 if before == after else (m - before) / (after - before)
        if seed is None:
            middle = (1 - share) * chain[before].centre + share * chain[after].centre
            source = chain[before] if share < 0.5 else chain[after]
            shift = np.array([[1, 0, middle[0] - source.centre[0]],
                              [0, 1, middle[1] - source.centre[1]]], np.float32)
            start = cv2.warpAffine(source.mask.astype(np.uint8), shift, (width, height)) > 0
        else:
            start = seed.mask
        masks[m] = _segment_frame(frames[m], evidence[m], start, log_ratio[m],
                                  certain=seed is not None)
    return masks


def _extend_by_flow(masks: np.ndarray, frames: np.ndarray, evidence: np.ndarray,
                    log_ratio: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Extend the longest run of masks that agree with the flow, forwards and backwards.

    An object that rests, or moves as the scene does, shows little motion evidence meanwhile.
    """
    together = np.flatnonzero(~(mask_motion.warped_iou(masks, flow) >= _MIN_WARPED_IOU)) + 1
    run = max(np.split(np.arange(len(masks)), together), key=len)
    out = masks.copy()
    for step, start in ((1, run[-1]), (-1, run[0])):
        for m in range(start + step, len(masks) if step > 0 else -1, step):
            warped = mask_motion.warp(out[m - step], flow[min(m, m - step)], step)
            if warped.any() and not _overlaps(out[m], warped):
                mask = _segment_frame(frames[m], evidence[m], warped, log_ratio[m],
                                      certain=False)
                if _overlaps(mask, warped):
                    out[m] = mask
    return out


def _overlaps(mask: np.ndarray, warped: np.ndarray) -> bool:
    return bool((mask & warped).sum() >= _MIN_WARPED_IOU * (mask | warped).sum())


def _is_duplicate(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether most of the smaller of two objects lies in the other."""
    return bool((one & other).sum() > 0.5 * min(one.sum(), other.sum()))


def _run_grabcut(patch: np.ndarray, trimap: np.ndarray, most: int = 110) -> np.ndarray:
    """Run GrabCut, on a reduced patch where it is large: the cost grows fast with the size."""
    height, width = trimap.shape
    scale = min(1.0, most / max(height, width))
    size = (max(4, round(width * scale)), max(4, round(height * scale)))
    small = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    marks = cv2.resize(trimap, size, interpolation=cv2.INTER_NEAREST)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    inside = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if 8 <= inside.sum() <= inside.size - 8:
        cv2.setRNGSeed(0)
        cv2.grabCut(small, marks, (0, 0, 0, 0), *models, 2, cv2.GC_INIT_WITH_MASK)
        inside = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return (cv2.resize(inside.astype(np.float32), (width, height)) > 0.5).astype(np.uint8)


def _segment_frame(frame: np.ndarray, evidence: np.ndarray, start: np.ndarray,
                   log_ratio: np.ndarray, certain: bool) -> np.ndarray:
    """Refine a first mask by GrabCut; return the first one where the result is implausible."""
    ys, xs = np.nonzero(start)
    if len(ys) == 0:
        return start
    height, width = start.shape
    side = np.sqrt(len(ys))
    pad = int(0.35 * side) + 4
    y0, y1 = max(ys.min() - pad, 0), min(ys.max() + pad + 1, height)
    x0, x1 = max(xs.min() - pad, 0), min(xs.max() + pad + 1, width)
    area = np.s_[y0:y1, x0:x1]
    first, e, similarity = start[area], evidence[area], cv2.blur(log_ratio[area], (3, 3))
    reach = int(0.15 * side) + 2
    near = cv2.dilate(first.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    # What never leaves its position shows no motion evidence; its colours show it.
    _, labels = cv2.connectedComponents((similarity > 1.5).astype(np.uint8))
    touched = np.unique(labels[first & (similarity > 1.5)])
    grown = np.isin(labels, touched[touched > 0])
    near |= grown
    trimap = np.full(first.shape, cv2.GC_BGD, np.uint8)
    trimap[near] = cv2.GC_PR_BGD
    # First guess: moving and not of the surroundings' colours, or of the object's colours.
    guess = first & ((e > 1) & (similarity > -1.5) | (similarity > 0.5)) | grown
    trimap[guess] = cv2.GC_PR_FGD
    core = cv2.erode((guess & (e > 1.5)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if certain:
        trimap[core & (similarity > 0.5)] = cv2.GC_FGD
    inside = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if inside.sum() < 12 or (~inside).sum() < 12:
        return start
    mask = _run_grabcut(cv2.bilateralFilter(frame[area], 5, 20, 3), trimap)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    out = np.zeros_like(start)
    if count > 1:
        biggest = stats[1:, cv2.CC_STAT_AREA].max()
        good = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= 0.15 * biggest]
        picked = np.isin(labels, good).astype(np.uint8)
        contours, _ = cv2.findContours(picked, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picked, contours, -1, 1, -1)
        out[area] = picked > 0
    if not 0.5 * guess.sum() <= out.sum() <= 1.8 * (first | grown).sum() + 20:
        out[area] = guess
    return out
