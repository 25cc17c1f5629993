"""What a probe leaves behind: a table on the terminal, and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fourd4d.core.errors import DiskFullError, one_line
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.media import row_media
from fourd4d.data.source import Source
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item
from fourd4d.eval.probes.effects import points
from fourd4d.eval.probes.run import Outcome
from fourd4d.eval.probes.tables import ARMS
from fourd4d.pages import Bar, Bars, Number, Page
from fourd4d.pages.pictures import paint
from fourd4d.processing.media import Video

_LIKENESS = (("cosine", "cosine with the own target"),
             ("constant_cosine", "the best constant's cosine"),
             ("centred_cosine", "centred cosine (a constant: 0)"),
             ("norm_ratio", "length, as a share of the target's"),
             ("retrieval_top1", "own target nearest among all"),
             ("retrieval_clip", "own target nearest among the item's"))
_PLACES = {"latent": "latents", "before": "token before", "end": "end token",
           "target": "true targets"}


def nats(of: Mapping[str, Any], name: str) -> str:
    """A difference of log-probabilities with its interval."""
    if name not in of:
        return "–"
    return f"{of[name]:+.2f} [{of[f'{name}_low']:+.2f}, {of[f'{name}_high']:+.2f}]"


def share(of: Mapping[str, Any], name: str) -> str:
    """A share in per cent with its interval."""
    if of.get(name) is None:
        return "–"
    return f"{100 * of[name]:.1f} [{100 * of[f'{name}_low']:.1f}, {100 * of[f'{name}_high']:.1f}]"


def _follow(of: Mapping[str, Any]) -> str:
    return "–" if "follow_after" not in of else (
        f"{100 * of['follow_before']:.1f} → {share(of, 'follow_after')}")


def arm_rows(arms: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row for each intervention: title, items, effects with intervals."""
    return [[ARMS[name].title, str(of["items"]), points(of, "accuracy_delta"),
             _follow(of), share(of, "flip_rate"), nats(of, "letter_logp_delta"),
             nats(of, "text_logp_delta")] for name, of in arms.items()]


HEADER = ("fed instead", "items", "accuracy, points", "donor's answer, %", "flips, %",
          "right letter, nats", "own words, nats")


def likeness_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Cosine and what keeps it from flattering, with intervals and chance."""
    rows = [[title, f"{found[name]:.3f} [{found[f'{name}_low']:.3f}, {found[f'{name}_high']:.3f}]",
             f"chance {found[f'{name}_chance']:.3f}" if f"{name}_chance" in found else ""]
            for name, title in _LIKENESS if name in found]
    for name, title in (("self_similarity", "cosine of different clips' latents"),
                        ("target_self_similarity", "cosine of different clips' true targets")):
        if found.get(name) is not None:
            rows.append([title, f"{found[name]:.3f}", ""])
    return rows


def statements(result: Mapping[str, Any]) -> list[str]:
    """What must not be overlooked: the verdict, a broken probe, warnings, what is missing."""
    out = [result["verdict"]]
    controls = result.get("controls")
    if controls and not controls["sound"]:
        out.append("THE PROBE IS BROKEN: on the planted task only "
                   f"{100 * controls['positive']:.0f} % follow what is fed (at least 90 % must), "
                   f"or the task that the text decides moves by {100 * controls['negative']:.1f} "
                   "points (less than 1 must). Trust no number below.")
    floor = result["arms"].get("repeat", {})
    if floor.get("flip_rate", 0) > 0:
        out.append(f"The plain run is not repeatable: {100 * floor['flip_rate']:.1f} % of its "
                   "answers change when it is run again. Effects of that size mean nothing.")
    if result["imagining_share"] < 0.9:
        out.append(f"{100 * result['imagining_share']:.0f} % of the answers hold a mental image; "
                   "the probe is about these alone.")
    return [*out, *result["warnings"]]


def show(result: Mapping[str, Any], out: str | Path, console: Console) -> None:
    """The result on the terminal."""
    table = Table(*HEADER)
    for row in arm_rows(result["arms"]):
        table.add_row(*row)
    console.print(table)
    if result["content"].get("images"):
        table = Table("what is imagined", "value, 95 %", "")
        for row in likeness_rows(result["content"]):
            table.add_row(*row)
        console.print(table)
    for line in statements(result):
        console.print(line, soft_wrap=True)
    if result["failed"]:
        console.print(f"could not be run: {len(result['failed'])}; probe.json lists them")
    console.print(f"{out}/probe.html  {out}/probe.json", soft_wrap=True)


def page_of(result: Mapping[str, Any], title: str, lead: str) -> Page:
    """The page but for its single questions."""
    page = Page(title, lead)
    page.add_text("Does the answer depend on what was imagined?", *statements(result))
    m = result["metrics"]
    numbers = [Number("accuracy", share(m, "plain_accuracy").split(" ")[0] + " %",
                      "95 %: " + _span(m, "plain_accuracy"))]
    if m["text_only_accuracy"] is not None:
        numbers.append(Number("text alone", share(m, "text_only_accuracy").split(" ")[0] + " %",
                              "95 %: " + _span(m, "text_only_accuracy")))
    numbers += [Number(label, points(arm, "accuracy_delta").split(" ")[0], "points; 95 %: " + (
                    _span(arm, "accuracy_delta")))
                for label, arm in (("swap, another answer", result["arms"].get("swap_other", {})),
                                   ("donor's true targets",
                                    result["arms"].get("donor_oracle", {})))
                if "accuracy_delta" in arm]
    if "controls" in result:
        c = result["controls"]
        numbers.append(Number("planted controls", "sound" if c["sound"] else "BROKEN",
                              f"{100 * c['positive']:.0f} % follow, {100 * c['negative']:.1f} "
                              "points where the text decides"))
    page.add_numbers(numbers)
    _add_bars(page, result["arms"])
    page.add_table("Every intervention", HEADER, arm_rows(result["arms"]), NOTE)
    page.add_table("What was fed", ["intervention", "what"],
                   [[ARMS[name].title, ARMS[name].about] for name in result["arms"]])
    rows = likeness_rows(result["content"])
    if rows:
        page.add_table("What is imagined, against what should be",
                       ["measure", "value [95 %]", "chance"], rows, LIKENESS_NOTE)
    if result["linear"]:
        page.add_table(
            "What can be read off linearly: R² on other clips",
            ["fact", *_PLACES.values()],
            [[fact, *(_r2(found.get(place)) for place in _PLACES)]
             for fact, found in result["linear"].items()], LINEAR_NOTE)
    if "controls" in result:
        rows = [[task, *row] for task, found in result["controls"]["tasks"].items()
                for row in arm_rows(found["arms"])]
        page.add_table("Planted controls", ["task", *HEADER], rows, CONTROLS_NOTE)
    for name, title in (("failed", "Items that could not be run"),
                        ("without_targets", "Items without true targets")):
        if result[name]:
            page.add_table(title, ["item", "reason"],
                           [[one["key"], one["reason"]] for one in result[name]])
    return page


def _span(of: Mapping[str, Any], name: str) -> str:
    return f"{100 * of[f'{name}_low']:.1f} to {100 * of[f'{name}_high']:.1f}"


def _r2(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else (
        f"{found['r2']:.2f} [{found['r2_low']:.2f}, {found['r2_high']:.2f}]")


def _add_bars(page: Page, arms: Mapping[str, Mapping[str, Any]]) -> None:
    def bars(name: str, chosen: Sequence[str]) -> list[Bar]:
        return [Bar(ARMS[arm].title, arms[arm][name], arms[arm][f"{name}_low"],
                    arms[arm][f"{name}_high"]) for arm in chosen if name in arms.get(arm, {})]

    drawn = bars("accuracy_delta", list(arms))
    if not drawn:
        return
    ends = [float(x) for bar in drawn for x in (bar.low, bar.high) if x is not None]
    low, high = min(-0.05, *ends), max(0.05, *ends)
    page.add_chart("Accuracy against the plain run",
                   Bars(drawn, ("plain", 0.0), low=low, high=high, colour=0, base=0.0),
                   "Points of accuracy, paired, on the questions answered with a mental image; "
                   "whiskers: 95 %, bootstrap of whole videos.")
    followed = [bar for arm in ("swap_other", "donor_oracle") for name, when in (
                    ("follow_before", "before"), ("follow_after", "after"))
                for bar in bars(name, [arm])]
    labels = [f"{ARMS[arm].title}, {when}" for arm in ("swap_other", "donor_oracle")
              if "follow_before" in arms.get(arm, {}) for when in ("before", "after")]
    if followed:
        page.add_chart("Answers that are the donor's", Bars(
            [Bar(label, bar.value, bar.low, bar.high)
             for label, bar in zip(labels, followed, strict=True)], colour=1),
            "The donor is another clip with the same type of question, whose answer is one of the "
            "options and not the right one.")


def add_questions(page: Page, outcome: Outcome, shown: Sequence[Item], source: Source,
                  out: Path, protocol: ProtocolSpec, assumed_fps: float | None) -> None:
    """Single questions: under each intervention, the first mental image and what was answered."""
    first = True
    for item in shown:
        if not outcome.plain[item.key].get("latents", 0):
            continue
        try:
            row = source[item.number]
            media, _ = row_media(row, protocol, assumed_fps=assumed_fps, with_overlays=False)
            pictures = _pictures(outcome, item, media[0], out, protocol)
        except Exception as error:
            if isinstance(error, DiskFullError):
                raise
            page.add_text("", f"{item.key} cannot be shown: {one_line(error)}")
            continue
        if pictures:
            caption = f"{item.key}: {row.sample.text_input}\nkey: {row.sample.answer}"
            page.add_pictures("Single questions" if first else "", pictures, caption)
            first = False
    if not first:
        page.add_text("", QUESTIONS_NOTE)


def _pictures(outcome: Outcome, item: Item, medium: Any, out: Path, protocol: ProtocolSpec
              ) -> list[tuple[str, np.ndarray]]:
    frames = medium.frames if isinstance(medium, Video) else medium.pixels[None]
    step = protocol.temporal_patch if isinstance(medium, Video) else 1
    pictures = []
    for name, records in (("plain", outcome.plain), *outcome.arms.items()):
        record = records.get(item.key)
        maps = MapStore(out / "maps" / name).load(item.key)
        if record is None or record["status"] != "answered":
            continue
        said = record["chosen"] or "no answer"
        note = " (right)" if record["correct"] else ""
        if said == record.get("donor_letter"):
            note = " (the donor's)"
        title = "plain" if name == "plain" else ARMS[name].title
        if maps:
            mean = maps[0][1].mean(0)  # Centred; the mean over the first image's latents.
            best = int(mean.reshape(len(mean), -1).max(-1).argmax())
            picture = paint(frames[best * step], mean[best], float(mean.min()), float(mean.max()))
        else:
            picture = np.full((176, 176, 3), 235, np.uint8)
        pictures.append((f"{title}: {said}{note}", picture))
    return pictures


NOTE = (
    "Every difference is intervention minus plain, on the same questions, weights and words up to "
    "the first mental image; in brackets 95 %, bootstrap of whole videos. Accuracy, flips and the "
    "donor's answer are of answers written anew; nats are of the plain answer's own words and of "
    "the right letter in its place, with that answer forced. Evidence of use is a swap with "
    "another answer that costs accuracy and is followed, with the donor's true targets as a "
    "positive control. Zeros, noise and markers are none: a model may want any vector of the "
    "usual kind.")
LIKENESS_NOTE = (
    "Vision features share so much that a constant has a high cosine with all of them; what a "
    "model adds is what it has beyond the constant. Centred: without what the targets share. "
    "Nearest: whole mental images, centred.")
LINEAR_NOTE = (
    "Ridge regression fitted on four fifths of the clips and read on the rest; 1 is perfect, 0 is "
    "no better than the mean, below 0 is worse. Place, size and velocity of the painted thing in "
    "the frame; identity is its name. That something can be read off does not show that it is "
    "used.")
CONTROLS_NOTE = (
    "A tiny model fitted on the spot. Positive: only what is fed holds the answer. Negative: the "
    "question states it.")
QUESTIONS_NOTE = (
    "Each picture is the frame that the first mental image, as it was fed, is most like: the "
    "cosine with the video's own features once their mean is taken away, dark to bright. Chosen "
    "before anything was answered. An empty tile: nothing was imagined.")
