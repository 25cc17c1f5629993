"""Pictures for notebooks, by matplotlib (``pip install "fourd4d[notebook]"``).

    from fourd4d import plot

    plot.heat_maps(thinker.answer("clip.mp4", "Where does it go?", maps=True))
    plot.curves("runs/dift_tiny")

Every function returns the figure. Heat maps are painted as on the pages of an evaluation.
"""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import UInt8

from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.media import load_media
from fourd4d.pages import Series, read_curves
from fourd4d.pages.pictures import paint
from fourd4d.synth.clip import Clip, Track
from fourd4d.train.writer import JSONL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fourd4d.api import Answer

_PAINTED: Final = 220  # Pixels of a painted frame's width.


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure that no window shows, and its axes (rows, columns)."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("fourd4d.plot", "matplotlib is not installed",
                         'Install "fourd4d[notebook]"') from error
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    figure._repr_png_ = lambda: _png(figure)  # Without pyplot no one else tells notebooks how.
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _picture(axis: Any, pixels: np.ndarray, title: str = "") -> None:
    axis.imshow(pixels, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()


def frames(pictures: UInt8[np.ndarray, "T H W 3"], timestamps: Sequence[float] = (),
           most: int = 8) -> Figure:
    """Draws up to ``most`` frames side by side, spread over the clip, under their times.

    Raises InputError: there is no frame.
    """
    if not len(pictures):
        raise InputError("frames", "there are none", "Give at least one frame")
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round()
                       .astype(int))
    figure, axes = _figure(1, len(chosen), 1.5 * len(chosen), 1.7)
    for axis, i in zip(axes[0], chosen, strict=True):
        _picture(axis, pictures[i], f"{timestamps[i]:.2f} s" if len(timestamps) else f"frame {i}")
    return figure


def sample(one: Sample, root: str | os.PathLike[str], protocol: Any = None) -> Figure:
    """Draws a sample's frames, and below them the overlays that its response imagines.

    Args:
      root: where its paths start.
      protocol: a ``ProtocolSpec``, which says how many frames are kept; the default's otherwise.

    Raises InputError: a file cannot be read.
    """
    from fourd4d.core.protocol import ProtocolSpec

    media, overlays = load_media(one, Path(root), protocol or ProtocolSpec(), assumed_fps=1.0)
    shown = getattr(media[0], "frames", None)
    shown = media[0].pixels[None] if shown is None else shown
    chosen = np.unique(np.linspace(0, len(shown) - 1, min(8, len(shown))).round().astype(int))
    columns = max(len(chosen), len(overlays), 1)
    figure, axes = _figure(2 if overlays else 1, columns, 1.5 * columns, 3.4 if overlays else 1.8)
    for axis in axes.flat:
        axis.set_axis_off()
    times = getattr(media[0], "timestamps", ())
    for axis, i in zip(axes[0], chosen, strict=False):
        _picture(axis, shown[i], f"{times[i]:.2f} s" if len(times) else "")
    for number, (axis, overlay) in enumerate(zip(axes[-1], overlays, strict=False)):
        when = one.overlay_timestamps
        _picture(axis, overlay, f"image {number + 1}" + (f", {when[number]:.2f} s" if when else ""))
    figure.suptitle(f"{one.question}   {one.answer}. {one.answer_text}", fontsize=9)
    return figure


def heat_maps(answer: Answer, centred: bool = True) -> Figure:
    """Draws each mental image over the frame where it is strongest, and then latent by latent.

    A row a mental image: the mean over its latents first. Dark and bright are the lowest and
    highest cosine of the row's panel, which its title tells.

    Args:
      answer: from ``Answerer.answer(…, maps=True)``.
      centred: take the video's mean feature away first; without it all places are much alike.

    Raises InputError: the answer has no heat maps.
    """
    if not answer.maps or answer.frames is None:
        raise InputError("answer", "it has no heat maps", "Ask with maps=True; an answer without "
                         "a mental image, or about pictures of several sizes, has none")
    latents = max(m.shape[1] for m in answer.maps)
    figure, axes = _figure(len(answer.maps), latents + 1, 1.7 * (latents + 1),
                           1.9 * len(answer.maps))
    for number, (row, maps) in enumerate(zip(axes, answer.maps, strict=True)):
        own = np.asarray(maps[int(centred)], np.float32)
        mean = own.mean(0)
        best = int(mean.reshape(len(mean), -1).max(-1).argmax())
        frame = answer.slot_frames[best]
        when = f"{answer.timestamps[frame]:.2f} s" if answer.timestamps else f"frame {frame}"
        panels = [(f"image {number + 1}, {when}", mean[best], mean)]
        panels += [(f"latent {i + 1}", one[best], own[:, best]) for i, one in enumerate(own)]
        for axis in row:
            axis.set_axis_off()
        for axis, (title, one, among) in zip(row, panels, strict=False):
            low, high = float(among.min()), float(among.max())
            _picture(axis, paint(answer.frames[frame], one, low, high, _PAINTED),
                     f"{title}\n{low:+.2f} … {high:+.2f}")
    return figure


def tracks(clip: Clip, things: Iterable[Track] | None = None) -> Figure:
    """Draws where a clip's things go: the middles of their boxes, over the last frame.

    A dot marks the start. Moving things are drawn solid, landmarks dashed.
    """
    figure, axes = _figure(1, 2, 6.4, 3.2)
    height, width = clip.frames.shape[1:3]
    for axis, number, name in ((axes[0, 0], 0, "first"), (axes[0, 1], -1, "last")):
        _picture(axis, clip.frames[number], f"{name} frame, {clip.timestamps[number]:.2f} s")
    for track in clip.tracks if things is None else things:
        seen = track.boxes[track.seen]
        if not len(seen):
            continue
        x, y = (seen[:, :2] + seen[:, 2:]).T / 2 * np.array([[width], [height]]) - 0.5
        (line,) = axes[0, 1].plot(x, y, "-" if track.role == "dynamic" else "--", lw=1.6,
                                  label=f"{track.name} ({track.role})")
        axes[0, 1].plot(x[:1], y[:1], "o", color=line.get_color(), ms=5)
    if clip.tracks:
        figure.legend(loc="outside lower center", fontsize=7, ncols=3)
    return figure


def curves(run: str | os.PathLike[str] | Mapping[str, Series], *names: str) -> Figure:
    """Draws a run's metrics, each in a panel of its own.

    Where the cosine is asked for, what a constant reaches is drawn beside it, dashed.

    Args:
      run: a trainer's workdir, its ``metrics.jsonl``, or series by name.
      names: metrics; by default what the run has of the losses, the imagery and the rewards.

    Raises InputError: none of them is there.
    """
    if isinstance(run, Mapping):
        found: Mapping[str, Series] = run
    else:
        place = Path(run)
        found = read_curves(place / JSONL if place.is_dir() else place)
    chosen = [name for name in names or _USUAL if name in found]
    if not chosen:
        raise InputError("metrics", f"none of {', '.join(names or _USUAL)} is there",
                         f"Known: {', '.join(sorted(found)) or 'none yet'}")
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = _figure(rows, columns, 3.4 * columns, 2.4 * rows)
    for axis in axes.flat[len(chosen):]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, chosen, strict=False):
        axis.plot(found[name].x, found[name].y, marker="." if len(found[name].x) < 25 else "")
        constant = found.get("constant_cosine")
        if name == "cosine" and constant is not None:
            axis.plot(constant.x, constant.y, "--", label="a constant")
            axis.legend(fontsize=7)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    return figure


_USUAL: Final = ("loss", "text_loss", "cosine", "centred_cosine", "retrieval", "norm_ratio",
                 "reward", "reward/answer", "response_length")


def watch(process: subprocess.Popen[Any], run: str | os.PathLike[str], *names: str,
          every: float = 2.0) -> None:
    """Draws a run's ``curves`` in a notebook again and again until its process has ended.

    Raises InputError: the process failed, or left no metrics.
    """
    try:
        from IPython.display import display
    except ImportError as error:
        raise InputError("fourd4d.plot", "IPython is not installed",
                         'Install "fourd4d[notebook]"') from error
    handle: Any = None
    drawn, ended = -1, False
    while not ended:
        ended = process.poll() is not None  # What comes after is drawn once more.
        file = Path(run) / JSONL
        size = file.stat().st_size if file.is_file() else 0
        if size and size != drawn:
            figure, drawn = curves(run, *names), size
            if handle is None:
                handle = display(figure, display_id=True)
            else:
                handle.update(figure)
        if not ended:
            time.sleep(every)
    if process.returncode:
        raise InputError(run, f"the training failed (exit {process.returncode})",
                         "Look at what it printed")
    if handle is None:
        raise InputError(run, "the training left no metrics", "Check its workdir")
