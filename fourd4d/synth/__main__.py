"""Entry point of data synthesis.

python -m fourd4d.synth --config=configs/synth_quickstart.py --config.output=runs/data
python -m fourd4d.synth --config=configs/synth_video.py --config.input=DIR --config.output=OUT
python -m fourd4d.synth report | difficulty | dedup | overlap | import | export …
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from fourd4d import build
from fourd4d.core.errors import InputError
from fourd4d.synth import base, commands, pipeline, sources, vlm
from fourd4d.synth.clip import Clip
from fourd4d.synth.endpoint import Endpoint
from fourd4d.synth.filters import Answer
from fourd4d.synth.questions import QuestionSpec
from fourd4d.synth.scenes.source import clips as scene_clips
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.sources import MaskSpec
from fourd4d.synth.video import DigestSpec
from fourd4d.synth.words import Asked, Template
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
    spec = build.frozen(DigestSpec, config.digest, "digest")
    pose_of = sources.pose_sources(config.poses, config.poses_root)
    mask_of = sources.mask_sources(build.frozen(MaskSpec, config.masks, "masks"))
    return [pipeline.Work(name, functools.partial(sources.clips, path, name, spec, pose_of,
                                                  mask_of))
            for name, path in find_videos(config.input).items()]


def client_of(config: Any) -> vlm.Client | None:
    """Who finds the words besides the templates; None for nobody.

    Raises InputError on bad settings.
    """
    if config.words == "template":
        return None
    section = config.vlm
    cache = section.cache or str(Path(config.output) / "vlm_cache")
    if config.words == "vlm":
        backend: vlm.Backend = Endpoint(
            section.url, section.model, section.key_env, section.timeout, section.retries,
            section.wait, json_mode=section.json_mode, temperature=section.temperature)
        return vlm.Client(backend, cache, concurrency=section.concurrency, tries=section.tries,
                          dry=section.dry_run)
    if config.words == "local":
        return vlm.Client(_local(section.checkpoint), cache, concurrency=1, tries=section.tries,
                          dry=section.dry_run)
    raise InputError("config.words", f"unknown value {config.words!r}",
                     "Use 'template', 'vlm' or 'local'")


def _local(checkpoint: str) -> vlm.Local:
    """A checkpoint of ours as a backend; loaded at the first request."""
    if not checkpoint:
        raise InputError("config.vlm.checkpoint", "nothing given", "Give a checkpoint directory")

    @functools.cache
    def thinker() -> Any:
        from fourd4d import answering  # It starts JAX.

        return answering.load(checkpoint)

    return vlm.Local(f"{checkpoint} ({_fingerprint(checkpoint)})",
                     lambda text, images, tokens: thinker().say(text, images, max_tokens=tokens))


def _fingerprint(checkpoint: str) -> str:
    """Tells one state of a checkpoint directory from another: replies of an older one are stale.

    Raises InputError where there is no such directory.
    """
    folder = Path(build.SHIPPED.get(checkpoint, checkpoint))
    if not folder.is_dir():
        raise InputError(folder, "no such directory", "Give a checkpoint directory")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    told = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


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
                                     question_spec(config), config.seed, config.quality,
                                     build.frozen(base.Practice, config.practice, "practice"))
        console.print(f"{shards} shards in {config.output}")
        return
    works: Iterable[pipeline.Work]
    if config.source == "videos":
        works, kinds = video_works(config), tuple(config.kinds)
        total = len(works)
    elif config.source == "scenes":
        works, kinds, total = scene_works(config), tuple(config.scene.weights), config.clips
    else:
        raise InputError("config.source", f"unknown value {config.source!r}",
                         "Use 'scenes' or 'videos'")
    client = client_of(config) if "words" in config else None
    with contextlib.closing(client) if client else contextlib.nullcontext():
        words = Asked(client, tuple(config.vlm.uses)) if client else Template()
        recipe = pipeline.Recipe(kinds, question_spec(config), config.seed, config.quality, words)
        if client and client.dry:
            for number, work in enumerate(works):
                pipeline.make(work, number, recipe, lambda one: None)
        else:
            run = {k: v for k, v in config.to_dict().items()
                   if k not in ("output", "records", "retry_failed")}
            entries = pipeline.run(config.output, works, total, recipe, run, config.records,
                                   config.get("retry_failed", False))
            states = [entry.status for entry in entries.values()]
            count = sum(len(entry.samples) for entry in entries.values())
            console.print(f"{len(entries)} videos: {states.count('done')} done, "
                          f"{states.count('empty')} empty, {states.count('failed')} failed; "
                          f"{count} samples in {config.output}")
            if states.count("done") < len(states):
                console.print(f"Why: python -m fourd4d.synth report {config.output}",
                              highlight=False, soft_wrap=True)
        if client:
            prices = vlm.Prices(config.vlm.input_price, config.vlm.output_price)
            console.print(f"{'Dry run: ' if client.dry else ''}{client.account(prices)}",
                          highlight=False, soft_wrap=True)


def answerer(args: argparse.Namespace) -> Answer:
    """Tries of the checkpoint that the command line names."""
    from fourd4d import answering  # It starts JAX.

    thinker = answering.load(args.checkpoint)
    return functools.partial(
        thinker.tries, root=commands.root_of(args), max_tokens=args.max_tokens,
        temperature=args.temperature, seed=args.seed, assumed_fps=args.assumed_fps or None)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in commands.NAMES:
        sys.exit(commands.main(sys.argv[1:], answerer))
    build.launch(main)
