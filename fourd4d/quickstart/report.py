"""The quickstart's report: what each stage made, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fourd4d.core.environment import environment
from fourd4d.core.files import read_json
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data.media import row_media
from fourd4d.data.source import open_source
from fourd4d.eval import report
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import read_items, read_log, spread
from fourd4d.eval.statistics import paired_bootstrap
from fourd4d.pages import Bar, Bars, Interval, Lines, Number, Page, read_curves
from fourd4d.processing.media import Video

NAMES: Final = {"base": "base", "dift": "after DIFT", "rl": "after 4DRL"}


def read_result(workdir: Path, name: str) -> dict[str, Any]:
    """``result.json`` of the evaluation of ``base``, ``dift`` or ``rl``."""
    return read_json(workdir / f"eval-{name}" / "result.json")


def _log(workdir: Path, name: str) -> dict[str, Any]:
    return read_log(workdir / f"eval-{name}" / "items-00000-of-00001.jsonl")[1]


def summarise(workdir: Path, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the quickstart's ``result.json`` holds.

    Args:
      stages: by name, with the ``seconds`` each took.
    """
    overall = {name: read_result(workdir, name)["overall"] for name in NAMES}
    return {
        **{f"{name}_accuracy": part["accuracy"] for name, part in overall.items()},
        **{f"{name}_lenient_accuracy": part["lenient_accuracy"] for name, part in overall.items()},
        "chance": overall["dift"]["chance"],
        "items": overall["dift"]["items"],
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "stage_seconds": {name: stage["seconds"] for name, stage in stages.items()},
        **environment(),
    }


def write(workdir: Path, result: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]],
          real_video: bool) -> Path:
    """Writes ``report.html``; returns its path."""
    page = Page("fourd4d quickstart",
                "Scenes synthesized, a tiny base fine-tuned by DIFT and 4DRL, and what it learnt, "
                f"in {result['seconds'] / 60:.1f} minutes on {result['machine']['cores']} cores.")
    _add_learning(page, workdir, result)
    _add_curves(page, workdir)
    _add_types(page, workdir)
    _add_cards(page, workdir)
    _add_video(page, workdir, real_video)
    page.add_table("What ran", ["stage", "seconds", "command"],
                   [[name, round(stage["seconds"], 1), stage["command"]]
                    for name, stage in stages.items()])
    return page.write(workdir / "report.html")


def _add_learning(page: Page, workdir: Path, result: Mapping[str, Any]) -> None:
    overall = {name: read_result(workdir, name)["overall"] for name in NAMES}
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
        "Strict: the answer must stand in <answer> after the reasoning. The base has never seen "
        "that form, so strict scoring gives it little; a lenient reader gives it "
        f"{report.percent(overall['base']['lenient_accuracy'])}. Whiskers: 95 % Wilson intervals.")
    logs = {name: _log(workdir, name) for name in NAMES}
    keys = sorted(logs["dift"])
    rows = []
    for before, after in (("base", "dift"), ("dift", "rl")):
        d = paired_bootstrap([logs[before][k]["correct"] for k in keys],
                             [logs[after][k]["correct"] for k in keys])
        rows.append([f"{NAMES[before]} → {NAMES[after]}", f"{100 * d.mean:+.1f}",
                     f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"])
    page.add_table("What each stage changed", ["step", "points", "95 %, paired bootstrap"], rows)


def _add_curves(page: Page, workdir: Path) -> None:
    dift = read_curves(workdir / "dift" / "metrics.jsonl", "text_loss", "cosine", "norm_ratio")
    rl = read_curves(workdir / "rl" / "metrics.jsonl")
    charts = [
        ("DIFT: text cross-entropy, nats a token", Lines([dift["text_loss"]], low=0)),
        ("DIFT: cosine of imagined and target latents", Lines([dift["cosine"]], high=1)),
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
    source = open_source(result["benchmark"], lenient=True)
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
