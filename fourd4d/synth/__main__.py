"""Entry point of data synthesis.

python -m fourd4d.synth --config=configs/synth_quickstart.py --config.output=runs/data
python -m fourd4d.synth report runs/data
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from fourd4d import build
from fourd4d.core.errors import InputError
from fourd4d.synth import pipeline, report
from fourd4d.synth.clip import Clip
from fourd4d.synth.questions import QuestionSpec
from fourd4d.synth.scenes.source import clips as scene_clips
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.video import DigestSpec, iterate
from fourd4d.synth.works import find_videos


def question_spec(config: Any) -> QuestionSpec:
    return QuestionSpec(style=config.style, overlays=config.overlays.to_dict(),
                        varying=config.get("varying", False), parts=config.get("parts", 1))


def scene_spec(config: Any) -> SceneSpec:
    values = config.scene.to_dict()
    weights = values.pop("weights")
    return SceneSpec(kinds=tuple(weights), weights=tuple(weights.values()), **values)


def scene_works(config: Any) -> Iterator[pipeline.Work]:
    """Scenes as work, rendered in order, a batch at a time."""
    spec = scene_spec(config)
    for clip in scene_clips(spec, config.seed, config.start, config.clips):
        yield pipeline.Work(clip.video_id, lambda clip=clip: [clip])


def video_works(config: Any) -> list[pipeline.Work]:
    """The video files of a folder, or one file, as work; names are unique."""
    spec = DigestSpec(**config.digest.to_dict())
    files = find_videos(config.input)
    return [pipeline.Work(name, functools.partial(iterate, path, spec, name))
            for name, path in files.items()]


def main(config: Any) -> None:
    """Runs the stage a config describes; prints what came out."""
    if not config.output:
        raise InputError("config.output", "no output folder", "Give --config.output=DIR")
    console = Console()
    if config.task == "base":
        spec = scene_spec(config)

        def part(start: int, count: int) -> Iterator[Clip]:
            return scene_clips(spec, config.seed, config.start + start, count)

        shards = pipeline.write_base(config.output, part, config.clips, spec.kinds,
                                     question_spec(config), config.seed, config.quality)
        console.print(f"{shards} shards in {config.output}")
        return
    if config.source == "videos":
        works, kinds = video_works(config), tuple(config.kinds)
        total = len(works)
    elif config.source == "scenes":
        works, kinds, total = scene_works(config), tuple(config.scene.weights), config.clips
    else:
        raise InputError("config.source", f"unknown value {config.source!r}",
                         "Use 'scenes' or 'videos'")
    run = {k: v for k, v in config.to_dict().items() if k not in ("output", "records")}
    entries = pipeline.run(config.output, works, total, kinds, question_spec(config), config.seed,
                           config.quality, config=run, with_records=config.records)
    states = [entry.status for entry in entries.values()]
    count = sum(len(entry.samples) for entry in entries.values())
    console.print(f"{len(entries)} videos: {states.count('done')} done, {states.count('empty')} "
                  f"empty, {states.count('failed')} failed; {count} samples in {config.output}")


def _report(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python -m fourd4d.synth report DIR")
    print(report.write(arguments[0]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        try:
            _report(sys.argv[2:])
        except InputError as error:
            sys.exit(str(error))
    else:
        build.launch(main)
