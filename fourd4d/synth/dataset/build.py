"""Makes a dataset of clips: ask questions, reason, draw overlays, write files and a manifest."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.progress import Progress

from fourd4d.core import jsonl, records
from fourd4d.core.errors import DiskFullError, InputError, asks_to_stop, one_line
from fourd4d.core.files import is_disk_full
from fourd4d.core.sample import LETTERS
from fourd4d.core.terminal import plain_console
from fourd4d.synth.clip import Clip
from fourd4d.synth.dataset import encode
from fourd4d.synth.dataset.manifest import Entry, Manifest
from fourd4d.synth.dataset.pack import pack_sample
from fourd4d.synth.questions import reasoning_full, reasoning_short
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.geometry import box_center
from fourd4d.synth.questions.margins import Ambiguous
from fourd4d.synth.questions.question import Question, Subject
from fourd4d.synth.questions.types import question_type
from fourd4d.synth.vlm.client import EndpointUnreachable
from fourd4d.synth.vlm.rewrite import Draft, Template, Words

SHARD_CLIPS: Final = 1000


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """One source video: its name, and a function that returns its clips or raises InputError.

    Attributes:
      change: what tells the second of two clips from the first; see ``pair_of``. Empty: the clips
        have nothing to do with each other.
    """

    video_id: str
    clips: Callable[[], Iterable[Clip]]
    change: str = ""


Reason = Callable[[Clip, Question, np.random.Generator, int], str]
STYLES: Final[Mapping[str, Reason]] = {"short": reasoning_short.reasoning,
                                       "full": reasoning_full.reasoning}


def seeded(seed: int, video_id: str) -> np.random.Generator:
    """Return a random generator that depends on the seed and the video's name only."""
    return np.random.default_rng([seed, *video_id.encode()])


def subjects(clip: Clip, question_types: Sequence[str]) -> Iterator[tuple[str, Subject]]:
    """Yield what to ask about in a clip, by the names of question types."""
    for name in question_types:
        for subject in question_type(name).subjects(clip):
            yield name, subject


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What is asked about every clip, and who words it.

    Attributes:
      question_types: their names.
      quality: of JPEG images, 0 … 100.
      words: names objects and words questions and reasoning.
    """

    question_types: Sequence[str]
    questions: QuestionSpec
    seed: int
    quality: int = 95
    words: Words = Template()


@dataclasses.dataclass
class ClipResult:
    """Samples of a clip; numbers of questions dropped and of texts kept, by reason."""

    samples: list[encode.EncodedSample]
    dropped: collections.Counter[str]
    notes: collections.Counter[str]
    clip: Clip


def samples_of(clip: Clip, spec: DatasetSpec, number: int = 0,
               of: ClipResult | None = None) -> ClipResult:
    """Return the samples of a clip, at most one per question type and subject.

    Args:
      number: counts clips; it keeps neighbouring texts from opening alike.
      of: what was asked about the clip's counterpart. Only questions that ``counterpart`` grants
        are asked, in the same words.
    """
    rng = seeded(spec.seed, clip.video_id if of is None else of.clip.video_id)
    reason = STYLES[spec.questions.style]
    clip, dropped, notes = spec.words.name_objects(clip)
    drafts: list[Draft] = []
    for name, subject in subjects(clip, shown(clip, spec.question_types)):
        try:
            question = ask(clip, name, rng, spec.questions, subject)
            if of is not None:
                question = counterpart(question, of)
            drafts.append(Draft(question, reason(clip, question, rng, number + len(drafts))))
        except Ambiguous as why:
            dropped[str(why)] += 1
    drafts, more = spec.words.write(clip, drafts)
    encoder = encode.Encoder(clip, spec.quality)
    return ClipResult([encode.question_sample(clip, d.question, d.response, encoder, d.provenance)
                       for d in drafts], dropped, notes + more, clip)


def counterpart(question: Question, of: ClipResult) -> Question:
    """Return the question with the options of the one that asks the same about another clip.

    Raises:
      Ambiguous: no question there has these words, or its options lack this answer, or it has the
        same answer.
    """
    for one in (sample.sample for sample in of.samples):
        if (one.kind, one.question) != (question.type, question.text):
            continue
        if one.answer_text == question.answer_text:
            raise Ambiguous("pair: the answer is the same")
        if question.answer_text not in one.options:
            raise Ambiguous("pair: the options lack one of the answers")
        return dataclasses.replace(question, options=one.options,
                                   answer=LETTERS[one.options.index(question.answer_text)])
    raise Ambiguous("pair: the question is another")


def pair_of(clips: Sequence[Clip], change: str, spec: DatasetSpec, number: int = 0
            ) -> list[ClipResult]:
    """Return the samples of a clip and of its counterpart.

    Two samples that ask the same with the same options and have different answers are a pair: both
    hold ``provenance["pair"]``, the first one's id, and ``provenance["change"]``. What the second
    clip could be asked besides is left out; what the first alone can be asked is no pair's.
    """
    first, second = clips
    one = samples_of(first, spec, number)
    two = samples_of(second, spec, number, one)
    asked = {(s.sample.kind, s.sample.question): s.sample.id for s in one.samples}
    made = {(s.sample.kind, s.sample.question) for s in two.samples}

    def joined(sample: encode.EncodedSample) -> encode.EncodedSample:
        about = sample.sample.kind, sample.sample.question
        if about not in made:
            return sample
        told = {**sample.sample.provenance, "pair": asked[about], "change": change}
        return dataclasses.replace(
            sample, sample=dataclasses.replace(sample.sample, provenance=told))

    return [dataclasses.replace(result, samples=[joined(s) for s in result.samples])
            for result in (one, two)]


def shown(clip: Clip, question_types: Sequence[str]) -> Sequence[str]:
    """Return the types to ask about a clip: the one a simulated scene was made for, else all."""
    made_for = clip.provenance.get("kind")
    return (made_for,) if made_for is not None and made_for in question_types else question_types


def build_dataset(root: str | os.PathLike[str], jobs: Iterable[VideoJob], total: int | None,
                  spec: DatasetSpec,
                  config: Mapping[str, Any] | None = None, with_records: bool = False,
                  retry_failed: bool = False) -> dict[str, Entry]:
    """Write ``dift.jsonl``, ``rl.jsonl`` and the images they name under ``root``.

    Videos already in the manifest are skipped; a failed one is recorded with its reason, and tried
    again only if ``retry_failed``. ``with_records`` also writes the samples as ArrayRecord shards.
    Returns the manifest's entries by video, in order of their names.
    """
    root = Path(root)
    manifest = Manifest(root, config or {})
    with contextlib.closing(manifest), Progress(console=plain_console()) as progress:
        tracked = progress.track(jobs, total=total, description="videos")
        for number, job in enumerate(tracked):
            before = manifest.entries.get(job.video_id)
            if before is None or (retry_failed and before.status == "failed"):
                _record(manifest, root, process_job(
                    job, number, spec, lambda one: encode.write_files(root, one.files),
                    functools.partial(_remove, root)))
    entries = dict(sorted(manifest.entries.items()))
    # From the manifest and the disk: a resumed run writes the same rows, and images stay out of
    # memory.
    rows = [records.sample_from_json(dict(s), root) for e in entries.values() for s in e.samples]
    jsonl.write(root / "dift.jsonl", (jsonl.dift_row(s) for s in rows))
    jsonl.write(root / "rl.jsonl", (jsonl.rl_row(s) for s in rows))
    if with_records and rows:
        records.write_shards(root, "dift", (pack_sample(root, s) for s in rows))
    return entries


def _remove(root: Path, clip: str) -> None:
    shutil.rmtree(root / encode.ROOT / clip, ignore_errors=True)


def _record(manifest: Manifest, root: Path, entry: Entry) -> None:
    """Add an entry to the manifest; one that it cannot hold is there as failed."""
    try:
        manifest.add(entry)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError) or entry.status == "failed":
            raise
        for clip in entry.drawing:
            _remove(root, clip)
        manifest.add(Entry(entry.video_id, "failed", f"it cannot be recorded ({one_line(error)})"))


def process_job(job: VideoJob, number: int, spec: DatasetSpec,
                keep: Callable[[encode.EncodedSample], Any],
                discard: Callable[[str], Any] = lambda video_id: None) -> Entry:
    """Ask about every clip of one video.

    Whatever is raised on the way makes a ``failed`` entry that says where. Raises what is not the
    video's fault: a full disk, a model that nobody answers for.

    Args:
      keep: called with each sample as it is made.
      discard: called with the name of each clip that was kept, where the video then fails.
    """
    dropped: collections.Counter[str] = collections.Counter()
    notes: collections.Counter[str] = collections.Counter()
    rows: list[Mapping[str, Any]] = []
    pictures: dict[str, Any] = {}
    begun: list[str] = []

    def failed(reason: str) -> Entry:
        for name in begun:
            discard(name)
        return Entry(job.video_id, "failed", reason, dict(dropped), notes=dict(notes))

    def results() -> Iterator[ClipResult]:
        count = number * len(spec.question_types)
        if job.change:
            yield from pair_of(list(job.clips()), job.change, spec, count)
            return
        for clip in job.clips():
            yield samples_of(clip, spec, count + len(rows))

    try:
        for result in results():
            begun.append(result.clip.video_id)
            for one in result.samples:
                keep(one)
            rows += [records.sample_to_json(one.sample) for one in result.samples]
            dropped += result.dropped
            notes += result.notes
            pictures[result.clip.video_id] = drawing(result.clip)
    except (DiskFullError, EndpointUnreachable):
        raise
    except InputError as error:
        return failed(one_line(error))
    except BaseException as error:  # One odd video must not end a run of thousands.
        if asks_to_stop(error) or is_disk_full(error):
            raise
        kind, _, said = one_line(error).partition(": ")
        return failed(f"unexpected {kind} {_place_of(error)}: {said}")
    if not rows:
        why = "; ".join(dropped) or "nothing to ask"
        return Entry(job.video_id, "empty", why, dict(dropped), (), pictures, dict(notes))
    return Entry(job.video_id, "done", "", dict(dropped), tuple(rows), pictures, dict(notes))


def _place_of(error: BaseException) -> str:
    """Return where in the package an error was raised: file and line."""
    package = Path(__file__).resolve().parents[2]
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    if not inside:
        return "outside of the package"
    return f"at {Path(inside[-1].filename).relative_to(package)}:{inside[-1].lineno}"


def drawing(clip: Clip) -> dict[str, Any]:
    """Return camera spans, camera path (x, z) and screen tracks of a clip, as JSON values."""
    path = [] if clip.poses is None else clip.poses[:, [0, 2], 3].round(3).tolist()
    tracks = [{"name": t.name, "role": t.role,
               "points": [[round(float(v), 3) for v in p] for p in box_center(t)[t.seen]]}
              for t in clip.tracks]
    spans = [[round(s.start, 3), round(s.end, 3), list(s.moves)] for s in clip.camera]
    return {"camera": spans, "path": path, "tracks": tracks}
