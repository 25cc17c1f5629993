"""One page of one or several training runs: curves laid over each other, decoded samples.

    python -m fourd4d.train_page runs/dift_3b runs/dift_3b_b --out runs/page.html

A RUN is a trainer's workdir, or its ``metrics.jsonl``; it may still be going. The page is one HTML
file that fetches nothing. The cosine of imagined and target latents is shown beside the cosine that
a constant reaches, the cosine without their common part, and the share of images that are nearest
to their own target: alone it says nothing. Sampled responses of 4DRL are shown with their frames
and heat maps where the run kept them and its data can still be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fourd4d.checkpoint.orbax import processor_dir, read_specs
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.sample import IMAGE_MARK, Sample
from fourd4d.core.terminal import say
from fourd4d.data.media import row_media
from fourd4d.data.source import Row, open_source
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.pages import Card, Lines, MentalImage, Page, Series, read_curves, read_texts
from fourd4d.pages.charts import SERIES_COLOURS
from fourd4d.processing import load_processor, parse_answer
from fourd4d.processing.latent_spans import marked
from fourd4d.processing.media import Video
from fourd4d.train.writer import JSONL

MOST_POINTS: Final = 600
"""Points of a curve on the page: of longer ones, the lowest and highest of each stretch."""

BESIDE_COSINE: Final = ("constant_cosine", "centred_cosine", "retrieval")
"""Without these the cosine is not drawn."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Charts under one heading.

    Attributes:
      charts: (metric, caption) in order; those that no run has are left out.
      text: what to know to read them.
    """

    title: str
    charts: Sequence[tuple[str, str]]
    text: str = ""


GROUPS: Final = (
    Group("Loss", (
        ("loss", "loss: the weighted sum that is minimised"),
        ("text_loss", "text cross-entropy, nats a token"),
        ("imagery_loss", "imagery: 1 − cosine; read it with the constant's, below"),
        ("norm_loss", "squared log ratio of norms"),
        ("nce_loss", "InfoNCE against the step's targets, nats"),
        ("policy_surrogate", "policy surrogate"))),
    Group("Do mental images tell their targets apart?", (
        ("cosine", "cosine with the target; dashed: what a constant reaches"),
        ("centred_cosine", "centred cosine; a constant gets 0"),
        ("retrieval", "share nearest to their own target; chance is one over the step's images"),
        ("norm_ratio", "norm of imagined over target latents")),
        "A cosine as high as the constant's is met without looking at the video. What counts is "
        "the centred cosine and the retrieval, on held-out data, and in the end a probe."),
    Group("Reward", (
        ("reward", "reward"), ("reward/answer", "share of right answers among samples"),
        ("reward/format", "share that is well-formed"),
        ("equal_groups", "groups whose responses all earn the same: they teach nothing"))),
    Group("Responses", (
        ("response_length", "tokens of a response, latents included"),
        ("blocks", "mental images of a response"),
        ("truncated", "share cut off by the budget"), ("entropy", "entropy, nats a token"))),
    Group("Policy", (
        ("kl_ref", "KL to the reference, nats a token"),
        ("logp_diff_max", "largest difference of sampled and recomputed log-probs, nats"),
        ("clipped_low", "share clipped below"), ("clipped_high", "share clipped above"))),
    Group("Optimizer", (("grad_norm", "norm of the gradient"),
                        ("update_norm", "norm of the update"))),
    Group("Throughput", (
        ("seconds_per_step", "seconds an update"), ("tokens_per_second", "tokens a second"),
        ("rollout_tokens_per_second", "sampled tokens a second, while sampling"),
        ("response_tokens_per_second", "sampled tokens a second, updates included"))),
)
_REFERENCES: Final[Mapping[str, tuple[str, float]]] = {
    "centred_cosine": ("a constant", 0.0), "norm_ratio": ("equal", 1.0)}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left behind so far.

    Attributes:
      name: tells it from the others of the page.
      folder: its workdir.
    """

    name: str
    folder: Path
    curves: Mapping[str, Series]
    texts: Mapping[int, Mapping[str, str]]

    @property
    def last(self) -> int:
        """The last step that has a metric."""
        return max((int(series.x[-1]) for series in self.curves.values()), default=0)


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Reads the runs; names are the last parts of their paths that tell them apart.

    Raises InputError: a folder without metrics, the same run twice, more runs than colours.
    """
    files = []
    for path in paths:
        place = Path(path).expanduser()
        file = place / JSONL if place.is_dir() else place
        if not file.is_file():
            raise InputError(path, f"no {JSONL} here",
                             "Give a trainer's config.workdir, or its metrics file")
        files.append(file.resolve())
    if len(set(files)) < len(files):
        raise InputError(paths[-1], "the same run twice", "Give each run once")
    if len(files) > SERIES_COLOURS:
        raise InputError("RUN", f"{len(files)} runs, {SERIES_COLOURS} colours",
                         f"Give {SERIES_COLOURS} at most")
    return [Run(name, file.parent, read_curves(file), read_texts(file))
            for name, file in zip(_names([file.parent for file in files]), files, strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]  # Files of one folder.


def page_of(runs: Sequence[Run], data: str = "", root: str = "", samples: int = 12) -> Page:
    """The page; see the module.

    Args:
      data, root: where the questions of the samples lie; by default as the run's config says.
      samples: responses shown of each run, spread over it, the newest among them.
    """
    page = Page("Training: " + ", ".join(run.name for run in runs),
                "Pale: as measured. Bold: a running mean. Every value is a mean over the run's "
                "log_every updates.")
    page.add_table("Runs", ["run", "updates", *(name for name, _ in _LAST), "last"],
                   [_row(run) for run in runs])
    known = {"cosine", *BESIDE_COSINE}
    for group in GROUPS:
        charts = [(f"{held}{caption}", chart) for metric, caption in group.charts
                  for prefix, held in (("", ""), ("held_out/", "held out: "))
                  if (chart := _chart(runs, prefix, metric)) is not None]
        known |= {metric for metric, _ in group.charts}
        if charts:
            page.add_charts(group.title, charts)
            if group.text:
                page.add_text("", group.text)
    bare = [run.name for run in runs if "cosine" in run.curves and not _beside(run, "")]
    if bare:
        page.add_text("", f"The cosine of {', '.join(bare)} is left out: the run has written none "
                      f"of {', '.join(BESIDE_COSINE)}, without which it says nothing.")
    rest = sorted({name for run in runs for name in run.curves
                   if name.removeprefix("held_out/") not in known})
    if rest:
        page.add_charts("Other", [(name, chart) for name in rest
                                  if (chart := _chart(runs, "", name)) is not None])
    for run in runs:
        cards, note = _cards(run, data, root, samples)
        page.add_cards(f"Sampled responses of {run.name}", cards, note)
    return page


_LAST: Final = (("text loss", "text_loss"), ("centred cosine", "centred_cosine"),
                ("retrieval", "retrieval"), ("reward", "reward"),
                ("seconds an update", "seconds_per_step"))


def _row(run: Run) -> list[Any]:
    values = [run.curves[name].y[-1] if name in run.curves else None for _, name in _LAST]
    return [run.name, run.last, *values, _ago(run.folder / JSONL)]


def _ago(file: Path) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    except OSError:
        return ""


def _beside(run: Run, prefix: str) -> bool:
    return all(f"{prefix}{name}" in run.curves for name in BESIDE_COSINE)


def _chart(runs: Sequence[Run], prefix: str, metric: str) -> Lines | None:
    found: list[Series] = []
    for colour, run in enumerate(runs):
        series = run.curves.get(f"{prefix}{metric}")
        if series is None or (metric == "cosine" and not _beside(run, prefix)):
            continue
        found.append(dataclasses.replace(thinned(series), name=run.name, colour=colour))
        if metric == "cosine":
            found.append(dataclasses.replace(
                thinned(run.curves[f"{prefix}constant_cosine"]), name="a constant", colour=colour,
                dashed=True))
    if not found:
        return None
    return Lines(found, reference=_REFERENCES.get(metric),
                 smooth=max(1, max(len(series.x) for series in found) // 40))


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """The lowest and the highest point of each of ``most`` / 2 stretches of a long series."""
    if len(series.x) <= most:
        return series
    y = np.asarray(series.y)
    ends = np.linspace(0, len(y), most // 2 + 1).astype(int)
    kept = sorted({int(a + pick(y[a:b])) for a, b in zip(ends[:-1], ends[1:], strict=True)
                   for pick in (np.argmin, np.argmax)} | {len(y) - 1})
    return dataclasses.replace(series, x=[series.x[i] for i in kept], y=[series.y[i] for i in kept])


def _cards(run: Run, data: str, root: str, samples: int) -> tuple[list[Card], str]:
    """Cards of the run's responses, oldest first, and what could not be shown of them."""
    steps = [step for step, texts in run.texts.items() if "response" in texts]
    if not steps or samples < 1:
        return [], ""
    chosen = [steps[i] for i in np.unique(
        np.linspace(len(steps) - 1, 0, min(samples, len(steps))).round().astype(int))]
    wanted = {run.texts[step].get("sample", "") for step in chosen}
    try:
        protocol, fps, rows = _question_rows(run, data, root, wanted)
        note = "" if len(rows) == len(wanted) else "Some of the questions are not in the data."
    except Exception as error:  # The curves are shown whatever became of the data.
        protocol, fps, rows = None, None, {}
        note = f"Without questions and frames: {one_line(error)} (--data and --root)"
    store, cards = MapStore(run.folder / "maps"), []
    for step in chosen:
        texts = run.texts[step]
        row = rows.get(texts.get("sample", ""))
        sample = Sample(texts.get("sample", ""), "") if row is None else row.sample
        frames, times, slots = np.zeros((0, 1, 1, 3), np.uint8), (), ()
        if row is not None:
            try:
                media, _ = row_media(row, protocol, assumed_fps=fps, with_overlays=False)
                video = isinstance(media[0], Video)
                frames = media[0].frames if video else media[0].pixels[None]
                times = media[0].timestamps if video else ()
                slots = tuple(range(0, len(frames), protocol.temporal_patch if video else 1))
            except Exception as error:
                note = f"Frames of {sample.id} cannot be shown: {one_line(error)}"
        response = marked(texts["response"])
        maps = store.load(str(step)) if len(frames) else []
        images = tuple(MentalImage(maps[i] if i < len(maps) else None)
                       for i in range(response.count(IMAGE_MARK)))
        cards.append(Card(
            key=sample.id, kind=sample.kind, question=sample.question, options=sample.options,
            answer=sample.answer, response=response, frames=frames, timestamps=times,
            chosen=parse_answer(texts["response"], sample.options) or "" if row else None,
            slot_frames=slots, images=images,
            facts=(f"update {step}", f"reward {texts.get('response_reward', '?')}")))
    return cards, note


def _question_rows(run: Run, data: str, root: str, wanted: set[str]
                   ) -> tuple[Any, float | None, dict[str, Row]]:
    """(protocol, assumed frames a second, rows of the data by id); reads until all are found."""
    checkpoints = run.folder / "checkpoints"
    config = read_specs(checkpoints).get("config", {}).get("data", {})
    protocol = load_processor(processor_dir(checkpoints)).protocol
    path = data or config.get("path", "")
    source = open_source(path, root or (config.get("root") if not data else None) or None,
                         keep_bad=True)
    return protocol, config.get("assumed_fps") or None, dict(_found(source, wanted))


def _found(source: Any, wanted: set[str]) -> Iterator[tuple[str, Row]]:
    left = set(wanted)
    for number in range(len(source)):
        if not left:
            return
        try:
            row = source[number]
        except InputError:
            continue  # A bad row is none that was trained on.
        if row.sample.id in left:
            left.discard(row.sample.id)
            yield row.sample.id, row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m fourd4d.train_page", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a trainer")
    parser.add_argument("--out", default="", help="page to write; RUN/train.html of the first run")
    parser.add_argument("--data", default="", help="data of the samples, if it was moved")
    parser.add_argument("--root", default="", help="where that data's paths start")
    parser.add_argument("--samples", type=int, default=12, help="responses shown of each run")
    parser.add_argument("--every", type=float, default=0.0, metavar="SECONDS",
                        help="write the page again and again, until interrupted")
    args = parser.parse_args(argv)
    if not (math.isfinite(args.every) and args.every >= 0):
        parser.error("--every: give 0 or more seconds")
    try:
        while True:
            runs = read_runs(args.runs)
            path = page_of(runs, args.data, args.root, args.samples).write(
                args.out or runs[0].folder / "train.html")
            say(f"wrote {path}: " + ", ".join(f"{run.name} at {run.last}" for run in runs))
            if not args.every:
                return 0
            time.sleep(args.every)
    except InputError as error:
        say(error, stderr=True)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
