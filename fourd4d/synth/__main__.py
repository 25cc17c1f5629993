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
from typing import Any, Final

from fourd4d.config import fields
from fourd4d.config.build import frozen
from fourd4d.config.help import Help
from fourd4d.config.launch import launch
from fourd4d.core.errors import InputError
from fourd4d.core.storage import local_only
from fourd4d.core.terminal import plain_console
from fourd4d.pretrained.open import located
from fourd4d.synth import annotate
from fourd4d.synth.annotate import AnnotateSpec
from fourd4d.synth.camera import pose_backends
from fourd4d.synth.clip import Clip
from fourd4d.synth.dataset import build, manifest, pretraining
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob, build_dataset, process_job
from fourd4d.synth.objects import mask_backends
from fourd4d.synth.objects.mask_backends import MaskSpec
from fourd4d.synth.questions import pretraining_tasks
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.simulator.clips import plan_clips, plan_pairs, simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from fourd4d.synth.tools import cli
from fourd4d.synth.tools.common import root_of
from fourd4d.synth.tools.difficulty import Answer
from fourd4d.synth.video.discover import find_videos, named_before, other_names
from fourd4d.synth.vlm import client
from fourd4d.synth.vlm.client import Prices
from fourd4d.synth.vlm.openai_backend import Endpoint
from fourd4d.synth.vlm.rewrite import Asked, Template


def question_spec(config: Any) -> QuestionSpec:
    """Return how questions are asked, from a config's fields."""
    return QuestionSpec(style=config.style, overlays=config.overlays.to_dict(),
                        varying=config.get("varying", False), parts=config.get("parts", 1))


def scene_spec(config: Any) -> SceneSpec:
    """Return which scenes are simulated, from a config's section ``scene``."""
    values = config.scene.to_dict()
    weights = values.pop("weights")
    return SceneSpec(kinds=tuple(weights), weights=tuple(weights.values()), **values)


def scene_jobs(config: Any) -> Iterator[build.VideoJob]:
    """Yield simulated scenes as jobs; a batch in which none is asked for is never rendered."""
    spec, changes = scene_spec(config), tuple(config.get("pairs", ()))
    which = spec, config.seed, config.start, config.clips
    for one in plan_pairs(*which, changes) if changes else plan_clips(*which):
        yield build.VideoJob(one.video_id, one.render, one.change)


def video_jobs(config: Any) -> list[VideoJob]:
    """Return the video files of a folder, or one file, as jobs with unique names."""
    spec = frozen(AnnotateSpec, config.digest, "digest")
    pose_of = pose_backends.pose_backend_finder(config.poses, config.poses_root)
    mask_of = mask_backends.mask_backend_finder(frozen(MaskSpec, config.masks, "masks"))
    return [VideoJob(name, functools.partial(
                annotate.iter_clips_with_backends, path, name, spec, pose_of, mask_of,
                other_names(path, Path(config.input))))
            for name, path in find_videos(config.input).items()]


def check_names(config: Any) -> None:
    """Raise InputError where the output folder holds videos under an earlier version's names."""
    if not (Path(config.output) / manifest.NAME).is_file():
        return
    old = named_before(config.input, manifest.read_entries(config.output))
    if old is not None:
        raise InputError(config.output, f"it holds the video {old!r}, which is named by its whole "
                         "path now and would come twice", "Choose another --config.output")


def client_of(config: Any) -> client.Client | None:
    """Return the client of the model that rewrites texts; None where templates are kept.

    Raises InputError on bad settings.
    """
    if config.words == "template":
        return None
    section = config.vlm
    cache = section.cache or str(Path(config.output) / "vlm_cache")
    if config.words == "vlm":
        backend: client.Backend = Endpoint(
            section.url, section.model, section.key_env, section.timeout, section.retries,
            section.wait, json_mode=section.json_mode, temperature=section.temperature)
        return client.Client(backend, cache, concurrency=section.concurrency, tries=section.tries,
                             dry=section.dry_run)
    if config.words == "local":
        return client.Client(_local(section.checkpoint), cache, concurrency=1, tries=section.tries,
                             dry=section.dry_run)
    raise InputError("config.words", f"unknown value {config.words!r}",
                     "Use 'template', 'vlm' or 'local'")


def _local(checkpoint: str) -> client.Local:
    """Return a checkpoint of this package as a backend; loaded at the first request."""
    if not checkpoint:
        raise InputError("config.vlm.checkpoint", "nothing given", "Give a checkpoint directory")

    @functools.cache
    def thinker() -> Any:
        from fourd4d import api  # It starts JAX.

        return api.load(checkpoint)

    return client.Local(f"{checkpoint} ({_fingerprint(checkpoint)})",
                        lambda text, images, tokens: thinker().say(text, images, max_tokens=tokens))


def _fingerprint(checkpoint: str) -> str:
    """Return a hash of a checkpoint directory's state: replies of an older state are stale.

    Raises InputError where there is no such directory.
    """
    folder = located(checkpoint)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    states = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:12]


HELP: Final = Help(fields.SYNTH, {
    "digest": AnnotateSpec, "masks": MaskSpec, "scene": SceneSpec, "vlm": Endpoint,
    "practice": pretraining_tasks.Practice, "": QuestionSpec}, "synth_video")


def main(config: Any) -> None:
    """Run synthesis as a config describes; print a summary."""
    if not config.output:
        raise InputError("config.output", "no output folder", "Give --config.output=DIR")
    local_only(config.output, "the output of synthesis")
    console = plain_console()
    if config.task == "base":
        spec = scene_spec(config)

        def part(start: int, count: int) -> Iterator[Clip]:
            return simulate_clips(spec, config.seed, config.start + start, count)

        shards = pretraining.write_base(
            config.output, part, config.clips, kinds=spec.kinds, spec=question_spec(config),
            seed=config.seed, quality=config.quality,
            practice=frozen(pretraining_tasks.Practice, config.practice, "practice"))
        console.print(f"{shards} shards in {config.output}", soft_wrap=True)
        return
    jobs: Iterable[VideoJob]
    if config.source == "videos":
        check_names(config)
        jobs, kinds = video_jobs(config), tuple(config.kinds)
        total = len(jobs)
    elif config.source == "scenes":
        jobs, kinds, total = scene_jobs(config), tuple(config.scene.weights), config.clips
    else:
        raise InputError("config.source", f"unknown value {config.source!r}",
                         "Use 'scenes' or 'videos'")
    client = client_of(config) if "words" in config else None
    with contextlib.closing(client) if client else contextlib.nullcontext():
        words = Asked(client, tuple(config.vlm.uses)) if client else Template()
        dataset_spec = DatasetSpec(kinds, question_spec(config), config.seed, config.quality, words)
        if client and client.dry:
            for number, job in enumerate(jobs):
                process_job(job, number, dataset_spec, lambda one: None)
        else:
            run = {k: v for k, v in config.to_dict().items()
                   if k not in ("output", "records", "retry_failed") and (k != "pairs" or v)}
            entries = build_dataset(config.output, jobs, total, dataset_spec, run, config.records,
                                    config.get("retry_failed", False))
            states = [entry.status for entry in entries.values()]
            count = sum(len(entry.samples) for entry in entries.values())
            console.print(f"{len(entries)} videos: {states.count('done')} done, "
                          f"{states.count('empty')} empty, {states.count('failed')} failed; "
                          f"{count} samples in {config.output}", soft_wrap=True)
            if states.count("done") < len(states):
                console.print(f"Why: python -m fourd4d.synth report {config.output}",
                              highlight=False, soft_wrap=True)
        if client:
            prices = Prices(config.vlm.input_price, config.vlm.output_price)
            console.print(f"{'Dry run: ' if client.dry else ''}{client.account(prices)}",
                          highlight=False, soft_wrap=True)


def answerer(args: argparse.Namespace) -> Answer:
    """Return a function that answers samples with the checkpoint on the command line."""
    from fourd4d import api  # It starts JAX.

    thinker = api.load(args.checkpoint)
    return functools.partial(
        thinker.tries, root=root_of(args), max_tokens=args.max_tokens,
        temperature=args.temperature, seed=args.seed, assumed_fps=args.assumed_fps or None)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in cli.NAMES:
        sys.exit(cli.main(sys.argv[1:], answerer))
    launch(main, about=HELP)
