"""The quickstart's report: what each stage made, in numbers and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fourd4d.core.environment import environment
from fourd4d.core.files import read_object
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.media import row_media
from fourd4d.data.source import open_source
from fourd4d.eval import report
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import read_items, read_log, spread
from fourd4d.eval.probes import report as probe_report
from fourd4d.eval.probes.effects import points
from fourd4d.eval.statistics import paired_bootstrap
from fourd4d.pages import Bar, Bars, Interval, Lines, Number, Page, read_curves
from fourd4d.processing.media import Video

STAGES: Final = {"base": "base", "dift": "after DIFT", "rl": "after 4DRL"}
NAMES: Final = STAGES | {"text": "text alone"}
PROBED: Final = ("probe_swap_delta", "probe_zero_delta", "donor_follow_rate", "retrieval_top1",
                 "cosine", "constant_cosine")
"""Metrics of the probe that ``result.json`` holds too, with ``_low`` and ``_high``."""
_AGAIN: Final = "Delete its folder, and its stage in stages.json, to make it again"


def read_result(workdir: Path, name: str) -> dict[str, Any]:
    """``result.json`` of the evaluation of one of ``NAMES``."""
    return read_object(workdir / f"eval-{name}" / "result.json", _AGAIN, _AGAIN,
                       holding=("overall",))


def read_probe(workdir: Path) -> dict[str, Any]:
    """``probe.json`` of the probe of the model after DIFT."""
    return read_object(workdir / "probe" / "probe.json", _AGAIN, _AGAIN, holding=("metrics",))


def _log(workdir: Path, name: str) -> dict[str, Any]:
    return read_log(workdir / f"eval-{name}" / "items-00000-of-00001.jsonl")[1]


def summarise(workdir: Path, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the quickstart's ``result.json`` holds.

    Args:
      stages: by name, with the ``seconds`` each took.
    """
    overall = {name: read_result(workdir, name)["overall"] for name in NAMES}
    trained = {name: overall[name] for name in STAGES}
    text, metrics = overall["text"], read_probe(workdir)["metrics"]
    ends = ("", "_low", "_high")
    return {
        **{f"{name}_accuracy": part["accuracy"] for name, part in trained.items()},
        **{f"{name}_lenient_accuracy": part["lenient_accuracy"] for name, part in trained.items()},
        **{f"text_only_accuracy{end}": text[f"accuracy{end}"] for end in ends},
        **{f"{name}{end}": metrics[f"{name}{end}"] for name in PROBED for end in ends},
        "chance": overall["dift"]["chance"],
        "items": overall["dift"]["items"],
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "stage_seconds": {name: stage["seconds"] for name, stage in stages.items()},
        **environment(),
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """What ``result.json`` holds, in a few lines for a terminal."""
    asked = f"of {result['items']} held-out questions (chance {100 * result['chance']:.0f} %)"
    shown = [f"{label:>11}: {100 * result[key]:.1f} %  {asked}" for label, key in (
        ("base", "base_accuracy"), ("text alone", "text_only_accuracy"),
        ("DIFT", "dift_accuracy"), ("4DRL", "rl_accuracy"))]
    if result["probe_swap_delta"] is not None:
        shown.append(
            f"with another clip's mental images: {points(result, 'probe_swap_delta')} points of "
            f"accuracy; {probe_report.share(result, 'donor_follow_rate')} % of the answers are "
            "that clip's")
    if result["cosine"] is not None:
        shown.append(
            f"cosine of mental images with their targets: {result['cosine']:.3f}, of a constant "
            f"{result['constant_cosine']:.3f}; own target nearest among all in "
            f"{probe_report.share(result, 'retrieval_top1')} %")
    return shown


def write(workdir: Path, result: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]],
          real_video: bool) -> Path:
    """Writes ``report.html``; returns its path."""
    page = Page("fourd4d quickstart",
                "Scenes synthesized, a tiny base fine-tuned by DIFT and 4DRL, and what it learnt, "
                f"in {result['seconds'] / 60:.1f} minutes on {result['machine']['cores']} cores.")
    _add_learning(page, workdir, result)
    _add_imagery(page, workdir)
    _add_curves(page, workdir)
    _add_types(page, workdir)
    _add_cards(page, workdir)
    _add_video(page, workdir, real_video)
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    page.add_chart("Where the time went", Bars(
        [Bar(name, value) for name, value in seconds.items()], percent=False, colour=0,
        high=max(seconds.values())), "Seconds of each command, compilation included.")
    page.add_table("What ran", ["stage", "seconds", "command"],
                   [[name, round(value, 1), stages[name]["command"]]
                    for name, value in seconds.items()])
    return page.write(workdir / "report.html")


def _add_learning(page: Page, workdir: Path, result: Mapping[str, Any]) -> None:
    order = ("base", "text", "dift", "rl")
    overall = {name: read_result(workdir, name)["overall"] for name in order}
    numbers = [Number(NAMES[name], report.percent(part["accuracy"]),
                      f"95 %: {report.span(part['accuracy_low'], part['accuracy_high'])}")
               for name, part in overall.items()]
    chance = Number("chance", report.percent(result["chance"]),
                    f"{result['items']} held-out questions")
    page.add_numbers([*numbers, chance])
    page.add_chart(
        "Held-out accuracy",
        Bars([Bar(NAMES[name], part["accuracy"], part["accuracy_low"], part["accuracy_high"])
              for name, part in overall.items()], ("chance", result["chance"])),
        "Text alone: the same base, clips, steps, batch and seed as DIFT, without mental images. "
        "Strict: the answer must stand in <answer> after the reasoning; a lenient reader gives "
        f"the base {report.percent(overall['base']['lenient_accuracy'])}. Whiskers: 95 % Wilson "
        "intervals.")
    logs = {name: _log(workdir, name) for name in order}
    keys = sorted(logs["dift"])
    rows = []
    for before, after in (("base", "dift"), ("text", "dift"), ("dift", "rl")):
        d = paired_bootstrap([logs[before][k]["correct"] for k in keys],
                             [logs[after][k]["correct"] for k in keys],
                             [logs[after][k]["video_id"] or k for k in keys])
        rows.append([f"{NAMES[before]} → {NAMES[after]}", f"{100 * d.mean:+.1f}",
                     f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"])
    page.add_table("What is gained", ["step", "points", "95 %, paired bootstrap of clips"], rows)


def _add_imagery(page: Page, workdir: Path) -> None:
    """The probe in words, then its table; likeness of every stage, no cosine alone."""
    probe = read_probe(workdir)
    about = (f"After DIFT, {probe['items']} of the held-out questions are asked again with "
             "something else in place of what the model imagined.")
    page.add_text("Does the answer depend on what is imagined?", about,
                  *probe_report.statements(probe))
    page.add_table("", probe_report.HEADER, probe_report.arm_rows(probe["arms"]),
                   probe_report.NOTE)
    found = {NAMES[name]: read_result(workdir, name)["imagery"] for name in STAGES}
    warned = [f"{name.capitalize()}: {line}" for name, one in found.items()
              for line in one["warnings"]]
    if warned:
        page.add_text("Look out", *warned)
    cells = {name: dict(row[:2] for row in probe_report.likeness_rows(one))
             for name, one in found.items()}
    measures = list(dict.fromkeys(measure for own in cells.values() for measure in own))
    if measures:
        page.add_table(
            "What is imagined, against what should be", ["measure [95 %]", *cells],
            [[measure, *(own.get(measure, "–") for own in cells.values())]
             for measure in measures], probe_report.LIKENESS_NOTE)


def _add_curves(page: Page, workdir: Path) -> None:
    dift, text, rl = (read_curves(workdir / run / "metrics.jsonl")
                      for run in ("dift", "dift-text", "rl"))
    losses = [("imagery", dift), ("text alone", text)]
    likeness = [dataclasses.replace(dift[key], name=name) for key, name in (
        ("cosine", "cosine"), ("constant_cosine", "a constant's"), ("centred_cosine", "centred"))
        if key in dift]
    charts = [
        ("DIFT: text cross-entropy, nats a token", Lines(
            [dataclasses.replace(of["text_loss"], name=name) for name, of in losses], low=0)),
        ("DIFT: cosine of imagined and target latents", Lines(likeness, high=1)),
        ("DIFT: own target nearest among those of the step, share",
         Lines([dift["retrieval"]], low=0, high=1)),
        ("4DRL: share of right answers among samples (pale: each step)",
         Lines([rl["reward/answer"]], smooth=5)),
        ("4DRL: largest difference of sampled and recomputed log-probs, nats",
         Lines([rl["logp_diff_max"]], low=0)),
    ]
    page.add_charts("Learning curves", charts)


def _add_types(page: Page, workdir: Path) -> None:
    parts = {name: read_result(workdir, name)["by_type"] for name in NAMES}
    rows: list[list[Any]] = []
    for kind, last in parts["rl"].items():
        cells = [Interval(p["accuracy"], p["accuracy_low"], p["accuracy_high"], p["chance"])
                 for p in (parts[name][kind] for name in NAMES)]
        rows.append([kind, last["items"], *cells])
    page.add_table("By question type", ["type", "items", *NAMES.values()], rows)


def _add_cards(page: Page, workdir: Path) -> None:
    result = read_result(workdir, "rl")
    source = open_source(result["benchmark"])
    items = read_items(source)
    out = workdir / "eval-rl"
    page.add_cards(
        "What the model thinks after 4DRL",
        report.cards(source, spread(items, 16), _log(workdir, "rl"), MapStore(out / "maps"),
                     ProtocolSpec.from_json(result["protocol"])),
        report.CARDS_NOTE)


def _add_video(page: Page, workdir: Path, real_video: bool) -> None:
    title = "A real video, digested without labels"
    if not real_video:
        page.add_text(title, "None was at hand: install fourd4d[quickstart] for a sample clip, or "
                      "give --config.video=FILE.")
        return
    rows = workdir / "video" / "dift.jsonl"
    if not rows.is_file() or not rows.stat().st_size:
        page.add_text(title, "The video gave no question that passed the consistency filter; "
                      "video/report.html says why.")
        return
    source = open_source(rows)
    for number in range(min(len(source), 3)):
        row = source[number]
        sample = row.sample
        protocol = ProtocolSpec(max_frames=8)
        (video, *_), overlays = row_media(row, protocol)
        times = video.timestamps if isinstance(video, Video) else [0.0] * len(video.frames)
        pictures = [(f"{time:.1f} s", frame)
                    for time, frame in zip(times, video.frames, strict=True)]
        pictures += [(f"overlay, {time:.1f} s", image) for time, image in
                     zip(sample.overlay_timestamps, overlays, strict=True)]
        page.add_pictures(title if not number else "", pictures,
                          f"{sample.text_input}\n\n{sample.response}")
