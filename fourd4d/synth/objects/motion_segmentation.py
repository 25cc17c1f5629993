"""Moving things: regions of evidence, followed through time, cut out tightly.

Regions found in single frames are linked by overlap (after the camera's motion and the thing's own
are taken off) and by colour. A thing must go somewhere or change its size against the static
scene: what merely flickers in place, such as the ghost of a thing that has left, is dropped. Each
kept thing is then cut out with GrabCut, started from its evidence and helped by its colours over
the whole clip, and followed by its looks into frames in which it shows no evidence, or too little.
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
from fourd4d.synth.objects import mask_motion
from fourd4d.synth.objects.color_regions import above, find_color_regions

_CODES = 6 * 16 * 16
_ALIKE = 0.2  # How much more like (Bhattacharyya) one place's colours must be than another's.
_HINT = 1.1  # Growth of regions from which masks may grow enough.
_SHADOW = 0.5  # Share of it under another light that makes a shadow; of things it is below 0.4.
_PINNED = 0.004  # Share of the diagonal that what is fixed to the picture may go.
_PLAIN = 2.0  # Mean evidence of what is no flicker.
_KEPT = 0.5  # Least overlap (IoU) of a mask with the one carried there from its neighbour.


@dataclasses.dataclass(frozen=True)
class MotionSegmentationSpec:
    """Numbers of the search; lengths and areas as shares of the frame's diagonal and area.

    Attributes:
      keep: most moving things of a clip.
      smallest, largest: area of a region.
      body: largest area of one that shows its motion at its edges only.
      gap: distance across which fragments are one region.
      lost: seconds a thing may go unseen.
      lasting: least share of the frames between its ends in which a thing is found.
      seconds: least time between them.
      travel: least way against the scene, or
      growth: least ratio of largest to smallest size.
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
    """A thing followed through M frames.

    Attributes:
      masks: (M, H, W), False throughout where it is not found.
      evidence: mean evidence over its masks.
      travel: how far it goes against the scene, shares of the diagonal.
    """

    masks: np.ndarray
    evidence: float
    travel: float

    @property
    def found(self) -> np.ndarray:
        return np.asarray(self.masks.any((1, 2)))

    @property
    def area(self) -> np.ndarray:
        """Share of the frame in each frame."""
        return self.masks.mean((1, 2))


@dataclasses.dataclass
class _Region:
    mask: np.ndarray
    box: tuple[int, int, int, int]
    centre: np.ndarray
    area: float
    own: np.ndarray  # Where it surely is the thing, and not what it came from.
    colours: np.ndarray
    strength: float


def find_moving(
    frames: UInt8[np.ndarray, "M H W 3"],
    times: Float[np.ndarray, "M"],
    chosen: Int[np.ndarray, "M"],
    evidence: Float[np.ndarray, "M H W"],
    usual: UInt8[np.ndarray, "M H W 3"],
    flow: Float[np.ndarray, "M-1 H W 2"],
    motion: CameraMotion,
    spec: MotionSegmentationSpec | None = None,
) -> list[MovingObject]:
    """The moving things of a clip, the most prominent first.

    Args:
      frames, times: the frames looked at.
      chosen: their numbers among the frames that ``motion`` was estimated from.
      evidence: above 1 where something moves by itself.
      usual: what most other frames show in each pixel's place.
      flow: ``mask_motion.backward_flow`` of the frames.
    """
    spec = spec or MotionSegmentationSpec()
    codes, usual_codes = (np.stack([_codes(f) for f in pictures]) for pictures in (frames, usual))
    # Where the camera travels, a thing's inside fits some depth, and its edges alone show.
    whole = [find_color_regions(f, e, spec.smallest, spec.body) if motion.kind == "moving" else []
             for f, e in zip(frames, evidence)]
    regions = [_regions(c, e, b, spec) for c, e, b in zip(codes, evidence, whole)]
    chains = _link(regions, times, chosen, motion, spec)
    diagonal = float(np.hypot(*frames.shape[1:3]))
    enough = min(spec.seconds, 0.6 * float(times[-1] - times[0]))
    things = []
    for chain in chains:
        seconds = times[max(chain)] - times[min(chain)]
        if seconds < enough or not _lasts(np.array(list(chain)), spec):
            continue
        way, growth = _going(chain, chosen, motion)
        travel = way / diagonal
        area = np.median([r.area for r in chain.values()])
        strength = np.mean([min(r.strength, 4.0) for r in chain.values()])
        grows = growth >= _HINT and area >= 3 * spec.smallest and strength >= 1.2
        # What shows strongly all the time may go less far.
        plain = strength >= _PLAIN and len(chain) >= 0.8 * len(times)
        least = (0.7 if plain else 1.0) * spec.travel
        if travel < least and not grows:
            continue
        shadow = np.mean([_shade(frames[m], usual[m], evidence[m], r) for m, r in chain.items()])
        if shadow > _SHADOW:
            continue
        ghost = np.mean([_uncovered(codes[m], usual_codes[m], evidence[m], r)
                         for m, r in chain.items()])
        if ghost > _ALIKE:
            continue
        score = len(chain) / len(times) * np.sqrt(area) * strength * (travel + 0.1)
        things.append((score, travel, travel >= least, chain))
    things.sort(key=lambda item: -item[0])
    out: list[MovingObject] = []
    for score, travel, travels, chain in things[: spec.keep]:
        if score < 0.02 * things[0][0]:
            break
        likely = _likely(evidence, codes, usual_codes, chain)
        here, there = likely[codes], likely[usual_codes]
        shown = np.where(there - here > 1.0, 0, evidence)  # Not where the thing has left.
        masks = _followed(_cut_out(frames, shown, here, chain), frames, shown, here, flow)
        if any(_same(masks, thing.masks) for thing in out):
            continue
        if not travels and _growth(masks) < spec.growth:
            continue
        if motion.kind != "still" and travel > 2 * spec.travel and _pinned(masks):
            continue
        if _lasts(np.flatnonzero(masks.any((1, 2))), spec):
            strength = float(np.mean([r.strength for r in chain.values()]))
            out.append(MovingObject(masks, strength, travel))
    return out


def _lasts(found: np.ndarray, spec: MotionSegmentationSpec) -> bool:
    """Whether a thing found in these frames is found in enough of those between."""
    return len(found) >= 4 and len(found) >= spec.lasting * float(np.ptp(found) + 1)


def _regions(codes: np.ndarray, evidence: np.ndarray, bodies: list[np.ndarray],
             spec: MotionSegmentationSpec
             ) -> list[_Region]:
    """Regions of evidence, the largest first; ``bodies`` take the place of their edges."""
    height, width = evidence.shape
    diagonal = np.hypot(height, width)
    size = max(1, round(spec.gap * diagonal))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * size + 1,) * 2)
    strong, weak = above(evidence, 1.0), above(evidence, 0.5)
    _, labels = cv2.connectedComponents(weak)
    weak = np.isin(labels, np.unique(labels[strong > 0])[1:] if strong.any() else []) & (labels > 0)
    closed = cv2.morphologyEx((weak | (strong > 0)).astype(np.uint8), cv2.MORPH_CLOSE, disc)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pieces = [_outlined(c, evidence, codes) for c in contours
              if cv2.contourArea(c) >= 0.5 * spec.smallest * height * width]
    pieces = _joined(sorted(pieces, key=lambda p: -p.mask.sum())[:12], evidence, codes)
    out = []
    for inside, own in _whole(pieces, bodies, evidence):
        area = float(inside.mean())
        if not spec.smallest <= area <= spec.largest:
            continue
        ys, xs = np.nonzero(inside)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        out.append(_Region(inside, box, np.array([xs.mean(), ys.mean()]), area,
                           own, _histogram(codes[own]),
                           float(np.minimum(evidence[inside], 6).mean())))
    return sorted(out, key=lambda r: -r.area)


def _whole(pieces: list[_Piece], bodies: list[np.ndarray], evidence: np.ndarray
           ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks, and where in them surely is the thing: bodies instead of the edges about them, and the
    other pieces."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for body in bodies:
        near = cv2.dilate(body.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        edges = [p for p in pieces if (p.own & near).sum() >= 0.7 * p.own.sum()
                 and (p.mask & body).sum() < 0.7 * body.sum()]
        if edges and not any((body & other).any() for other, _ in found):
            found.append((body, body))
            pieces = [p for p in pieces if p not in edges]
    return found + [(p.mask, p.mask & (evidence > 1)) for p in pieces]


@dataclasses.dataclass(eq=False)
class _Piece:
    """Connected evidence: its outline's points, what it fills, and the box around it."""

    points: np.ndarray
    mask: np.ndarray
    own: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        x, y, w, h = cv2.boundingRect(self.points)
        return x, y, x + w, y + h


def _outlined(contour: np.ndarray, evidence: np.ndarray, codes: np.ndarray) -> _Piece:
    own = np.zeros(evidence.shape, np.uint8)
    cv2.drawContours(own, [contour], -1, 1, -1)
    hull = cv2.convexHull(contour)
    if cv2.contourArea(hull) < 2.5 * cv2.contourArea(contour):
        mask = np.zeros_like(own)
        cv2.drawContours(mask, [hull], -1, 1, -1)
        return _Piece(contour, mask > 0, own > 0)
    whole = _filled(contour, own > 0, evidence, codes)
    return _Piece(contour, own > 0 if whole is None else whole, own > 0)


def _joined(pieces: list[_Piece], evidence: np.ndarray, codes: np.ndarray) -> list[_Piece]:
    """Pieces, the parts of one thing as one: what lies between them looks like them.

    A thing without much texture shows its motion at its edges only, some of them apart.
    """
    pieces = list(pieces)
    again = True
    while again:
        again = False
        for i, j in itertools.combinations(range(len(pieces)), 2):
            one, other = pieces[i], pieces[j]
            if _gap(one.box, other.box) > min(_side(one.box), _side(other.box)):
                continue
            points = np.concatenate([one.points, other.points])
            mask = _filled(points, one.own | other.own, evidence, codes)
            if mask is not None:
                pieces[i] = _Piece(points, mask, one.own | other.own)
                del pieces[j]
                again = True
                break
    return pieces


def _gap(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return max(0, a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def _side(box: tuple[int, ...]) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _filled(points: np.ndarray, own: np.ndarray, evidence: np.ndarray, codes: np.ndarray
            ) -> np.ndarray | None:
    """The hull of a thing's edges; None where its inside looks like what is around it instead."""
    hull = np.zeros(own.shape, np.uint8)
    cv2.drawContours(hull, [cv2.convexHull(points)], -1, 1, -1)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    inside = (hull > 0) & ~own
    around = (cv2.dilate(hull, wide) > 0) & (hull == 0) & (evidence < 0.5)
    edge = own & (evidence > 1)
    if inside.sum() < 12 or edge.sum() < 12:
        return None
    fill = _histogram(codes[inside])
    like, unlike = (float(np.sqrt(fill * _histogram(codes[part])).sum()) for part in (edge, around))
    return hull > 0 if like > unlike + _ALIKE else None


def _codes(frame: np.ndarray) -> np.ndarray:
    """Colour classes: hue and chroma finely, lightness coarsely, since shading changes it."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB).astype(np.int16)
    hue = np.clip((lab[..., 1:] - 128 + 64) // 8, 0, 15)
    return (lab[..., 0] * 6 // 256 * 16 + hue[..., 0]) * 16 + hue[..., 1]


def _histogram(codes: np.ndarray) -> np.ndarray:
    count = np.bincount(codes, minlength=_CODES).astype(np.float32)
    count = gaussian_filter(count.reshape(6, 16, 16), (0.7, 0.8, 0.8), mode="nearest").ravel()
    return count / max(float(count.sum()), 1.0)


def _link(
    regions: list[list[_Region]], times: np.ndarray, chosen: np.ndarray, motion: CameraMotion,
    spec: MotionSegmentationSpec,
) -> list[dict[int, _Region]]:
    """Chains of regions, one region a frame; greedy, best links first."""
    open_chains: list[dict[int, _Region]] = []
    done: list[dict[int, _Region]] = []
    for m, found in enumerate(regions):
        alive = []
        for chain in open_chains:
            (alive if times[m] - times[max(chain)] <= spec.lost else done).append(chain)
        costs = []
        for c, chain in enumerate(alive):
            last = max(chain)
            guess = _foretell(chain, last, m, times, chosen, motion)
            for r, region in enumerate(found):
                cost = _unlike(chain[last], region, guess)
                if cost is not None:
                    costs.append((cost, c, r))
        used_c, used_r = set(), set()
        for _, c, r in sorted(costs):
            if c not in used_c and r not in used_r:
                alive[c][m] = found[r]
                used_c.add(c)
                used_r.add(r)
        alive += [{m: region} for r, region in enumerate(found) if r not in used_r]
        open_chains = alive
    return done + open_chains


def _foretell(chain, last: int, now: int, times, chosen, motion: CameraMotion) -> np.ndarray:
    """Where the thing's centre should be: carried by the camera, plus its own steady motion."""
    here = motion.place(int(chosen[last]), int(chosen[now]), chain[last].centre,
                        1 / motion.depth(int(chosen[last])))
    earlier = [k for k in chain if k < last]
    if earlier:
        before = max(earlier)
        carried = motion.place(int(chosen[before]), int(chosen[last]), chain[before].centre,
                               1 / motion.depth(int(chosen[before])))
        pace = (times[now] - times[last]) / (times[last] - times[before])
        here = here + np.clip(pace, 0, 2) * (chain[last].centre - carried)
    return here


def _unlike(old: _Region, new: _Region, guess: np.ndarray) -> float | None:
    """Cost of a link; None where it cannot be."""
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


def _going(chain: dict[int, _Region], chosen: np.ndarray, motion: CameraMotion
           ) -> tuple[float, float]:
    """Largest way from the start against the scene, pixels, and growth of the size."""
    first = min(chain)
    ways = []
    for m, region in chain.items():
        home = motion.place(int(chosen[first]), int(chosen[m]), chain[first].centre,
                            1 / motion.depth(int(chosen[first])))
        ways.append(np.linalg.norm(region.centre - home))
    return float(np.percentile(ways, 90)), _spread([chain[m].area for m in sorted(chain)])


def _pinned(masks: np.ndarray) -> bool:
    """Whether masks keep their place in the picture, as a caption does before a moving scene."""
    middle = mask_motion.centres(masks)
    middle = middle[np.isfinite(middle[:, 0])]
    away = np.linalg.norm(middle - np.median(middle, axis=0), axis=1)
    # While it fades in or out, parts of it stand for the whole.
    return bool(np.percentile(away, 75) < _PINNED * np.hypot(*masks.shape[1:]))


def _growth(masks: np.ndarray) -> float:
    """Growth of masks that the picture's edge does not cut; 1 where nothing is known.

    Evidence also shows where the thing is at other times, so its regions grow less than it does.
    """
    whole = masks.any((1, 2)) & ~mask_motion.touches_border(masks)
    return _spread(masks[whole].mean((1, 2)))


def _spread(areas: Sequence[float] | np.ndarray) -> float:
    """Ratio of the largest to the smallest side, smoothed over three frames."""
    if len(areas) < 3:
        return 1.0
    sides = np.convolve(np.sqrt(areas), np.ones(3) / 3, "valid")
    return float(sides.max() / sides.min())


def _shade(frame: np.ndarray, usual: np.ndarray, evidence: np.ndarray, region: _Region) -> float:
    """Share of what shows at a region that is its usual self under another light: a shadow's.

    The light changes all colours alike, and smoothly: what the ground shows stays visible.
    """
    x0, y0, x1, y1 = region.box
    area = np.s_[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3]
    now, before = (cv2.blur(f[area].astype(np.float32), (3, 3)) + 4 for f in (frame, usual))
    ratio = np.log(now / before)
    light = ratio.mean(-1)
    even = np.abs(cv2.blur(ratio - light[..., None], (3, 3))).max(-1) < 0.06
    smooth = cv2.blur(light * light, (7, 7)) - cv2.blur(light, (7, 7)) ** 2 < 0.09**2
    near = cv2.dilate(region.mask[area].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    shows = near & (evidence[area] > 1)
    return float(np.mean((even & smooth & (np.abs(light) < 0.9))[shows])) if shows.any() else 0.0


def _uncovered(codes: np.ndarray, usual: np.ndarray, evidence: np.ndarray, region: _Region
               ) -> float:
    """How much more a region is like what is around it than it usually is: a thing left it."""
    around = _ring(region, evidence)
    now, before = (float(np.sqrt(_histogram(c[region.own]) * _histogram(codes[around])).sum())
                   for c in (codes, usual))
    return now - before


def _ring(region: _Region, evidence: np.ndarray) -> np.ndarray:
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    near = cv2.dilate(region.mask.astype(np.uint8), wide) > 0
    return near & ~region.mask & (evidence < 0.5)


def _likely(evidence: np.ndarray, codes: np.ndarray, usual: np.ndarray, chain: dict[int, _Region]
            ) -> np.ndarray:
    """Log of how much likelier each colour class is in a thing than in what is around it.

    ``codes`` and ``usual`` are the colour classes of the frames and of what they usually show.
    """
    likely, around = np.zeros(_CODES, np.float32), np.zeros(_CODES, np.float32)
    for m, region in chain.items():
        around += _histogram(codes[m][_ring(region, evidence[m])])
    for _ in range(2):
        own = np.zeros(_CODES, np.float32)
        for m, region in chain.items():
            # Where the usual picture looks more like the thing than this one, the thing has left.
            left = likely[usual[m]] - likely[codes[m]] > 0.5
            own += _histogram(codes[m][region.own & ~left])
        likely = np.log((own / max(own.sum(), 1e-9) + 1e-4)
                        / (around / max(around.sum(), 1e-9) + 1e-4))
    return likely


def _cut_out(frames: np.ndarray, evidence: np.ndarray, likely: np.ndarray,
             chain: dict[int, _Region]) -> Bool[np.ndarray, "M H W"]:
    """Masks of a thing in the frames of its chain and in the gaps between them."""
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
        masks[m] = _grab(frames[m], evidence[m], start, likely[m], sure=seed is not None)
    return masks


def _followed(masks: np.ndarray, frames: np.ndarray, evidence: np.ndarray, likely: np.ndarray,
              flow: np.ndarray) -> np.ndarray:
    """Masks before and after the longest run that the picture's motion carries, as far as it does.

    A thing that rests, or moves as the scene would, shows no evidence meanwhile, or in parts only.
    """
    together = np.flatnonzero(~(mask_motion.warped_iou(masks, flow) >= _KEPT)) + 1
    run = max(np.split(np.arange(len(masks)), together), key=len)
    out = masks.copy()
    for way, start in ((1, run[-1]), (-1, run[0])):
        for m in range(start + way, len(masks) if way > 0 else -1, way):
            came = mask_motion.warp(out[m - way], flow[min(m, m - way)], way)
            if came.any() and not _alike(out[m], came):
                mask = _grab(frames[m], evidence[m], came, likely[m], sure=False)
                if _alike(mask, came):
                    out[m] = mask
    return out


def _alike(mask: np.ndarray, came: np.ndarray) -> bool:
    return bool((mask & came).sum() >= _KEPT * (mask | came).sum())


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether most of the smaller of two things lies in the other."""
    return bool((one & other).sum() > 0.5 * min(one.sum(), other.sum()))


def _refined(patch: np.ndarray, trimap: np.ndarray, most: int = 110) -> np.ndarray:
    """GrabCut's mask, made at a smaller size where the patch is large: its cost explodes."""
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


def _grab(frame: np.ndarray, evidence: np.ndarray, start: np.ndarray, likely: np.ndarray,
          sure: bool) -> np.ndarray:
    """GrabCut around a first mask; the first mask where it finds nothing sensible."""
    ys, xs = np.nonzero(start)
    if len(ys) == 0:
        return start
    height, width = start.shape
    side = np.sqrt(len(ys))
    pad = int(0.35 * side) + 4
    y0, y1 = max(ys.min() - pad, 0), min(ys.max() + pad + 1, height)
    x0, x1 = max(xs.min() - pad, 0), min(xs.max() + pad + 1, width)
    area = np.s_[y0:y1, x0:x1]
    first, e, like = start[area], evidence[area], cv2.blur(likely[area], (3, 3))
    reach = int(0.15 * side) + 2
    near = cv2.dilate(first.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    # What rests in its own place all the time shows no evidence; its colours tell it.
    _, labels = cv2.connectedComponents((like > 1.5).astype(np.uint8))
    touched = np.unique(labels[first & (like > 1.5)])
    grown = np.isin(labels, touched[touched > 0])
    near |= grown
    trimap = np.full(first.shape, cv2.GC_BGD, np.uint8)
    trimap[near] = cv2.GC_PR_BGD
    # First guess: moving and not plainly of the surroundings' colours, or of its own colours.
    guess = first & ((e > 1) & (like > -1.5) | (like > 0.5)) | grown
    trimap[guess] = cv2.GC_PR_FGD
    core = cv2.erode((guess & (e > 1.5)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if sure:
        trimap[core & (like > 0.5)] = cv2.GC_FGD
    inside = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if inside.sum() < 12 or (~inside).sum() < 12:
        return start
    mask = _refined(cv2.bilateralFilter(frame[area], 5, 20, 3), trimap)
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
