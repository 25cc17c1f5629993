"""Datasets on disk: the published layout, resuming, bad videos, record shards."""

import contextlib
import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from fourd4d.core import jsonl, records
from fourd4d.core.errors import DiskFullError, InputError
from fourd4d.synth.dataset import build, pretraining
from fourd4d.synth.dataset.build import VideoJob
from fourd4d.synth.dataset.encode import write_files
from fourd4d.synth.dataset.manifest import Entry, Manifest
from fourd4d.synth.overlay import overlay
from fourd4d.synth.questions import pretraining_tasks
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec

TYPES = tuple(QUESTION_TYPES)

SPEC = QuestionSpec(style="short")


@pytest.fixture(scope="module")
def scenes():
    return list(simulate_clips(SceneSpec(), seed=8, start=0, count=16))


def works(scenes, calls=None):
    def work(clip):
        def get():
            if calls is not None:
                calls.append(clip.video_id)
            return [clip]

        return VideoJob(clip.video_id, get)

    return [work(clip) for clip in scenes]


def run(root, todo, **more):
    recipe = build.DatasetSpec(TYPES, SPEC, seed=1)
    return build.build_dataset(root, todo, len(todo), recipe, config={"seed": 1}, **more)


def test_the_dataset_reads_back_in_both_layouts(tmp_path, scenes):
    run(tmp_path, works(scenes), with_records=True)
    dift, rl = list(jsonl.read(tmp_path / "dift.jsonl")), list(jsonl.read(tmp_path / "rl.jsonl"))
    assert len(dift) == len(rl) >= 12
    packed = list(records.read_shards(records.find_shards(tmp_path, "dift")))
    for one, two, record in zip(dift, rl, packed, strict=True):
        assert (one.question, one.options, one.answer) == (two.question, two.options, two.answer)
        assert two.response == "" and record.sample.id == one.id
        assert len(one.frames) == len(one.timestamps) == 8
        assert one.frames[0].startswith(f"processed_data/{one.video_id}/frames/frame_0000")
        for path in (*one.frames, *one.overlays, *one.masks):
            assert cv2.imread(str(tmp_path / path)) is not None, path
        assert [(tmp_path / p).read_bytes() for p in one.overlays] == list(record.overlays)
        assert one.provenance["source"] == "scenes" and one.provenance["answer_from"]


def test_things_of_one_name_are_asked_about_by_box_or_relation_alone(scenes):
    clip = next(c for c in scenes if c.dynamic is not None)
    twin = dataclasses.replace(clip.dynamic, boxes=clip.dynamic.boxes + 0.01)
    twins = dataclasses.replace(clip, tracks=(*clip.tracks, twin))
    told = [(name, subject.track) for name, subject in build.subjects(twins, TYPES)
            if subject.track]
    assert {kind for kind, track in told if track.name == twin.name} == {
        "box_direction", "destination", "vacated", "lookalike"}
    assert sum(track is twin for _, track in told) == 4
    alone = {name for name, subject in build.subjects(clip, TYPES)
             if subject.track is clip.dynamic}
    assert alone == {*TYPES} - {"camera", "lookalike"}


def test_a_finished_video_is_not_made_again(tmp_path, scenes):
    calls = []
    run(tmp_path, works(scenes[:4], calls))
    first = (tmp_path / "dift.jsonl").read_text()
    run(tmp_path, works(scenes[:4], calls))
    assert calls == [c.video_id for c in scenes[:4]]
    assert (tmp_path / "dift.jsonl").read_text() == first


def test_a_run_cut_short_ends_like_one_that_was_not(tmp_path, scenes):
    run(tmp_path / "whole", works(scenes[:6]))
    run(tmp_path / "cut", works(scenes[:3]))
    manifest = tmp_path / "cut" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-40])  # the last line, half written
    run(tmp_path / "cut", works(scenes[:6]))
    for name in ("dift.jsonl", "rl.jsonl"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_bad_video_is_recorded_and_the_rest_goes_on(tmp_path, scenes):
    def broken():
        raise InputError("b.mp4", "the file ends early", "Fetch it again")

    todo = [works(scenes[:1])[0], VideoJob("b", broken), *works(scenes[1:3])]
    entries = run(tmp_path, todo)
    assert entries["b"].status == "failed" and "ends early" in entries["b"].reason
    assert sum(e.status == "done" for e in entries.values()) >= 2
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("reason", "").startswith("b.mp4") for line in lines)


@pytest.mark.parametrize("with_records", [False, True])
def test_a_full_disk_ends_the_run_which_then_goes_on(tmp_path, scenes, file_limit, with_records):
    """It is no fault of the video that could not be written: nothing is recorded of it."""
    run(tmp_path / "whole", works(scenes[:2]))
    frame = max(p.stat().st_size for p in (tmp_path / "whole").rglob("*.jpg"))
    file_limit(40_000 if with_records else frame // 2)
    with pytest.raises(DiskFullError, match="no space left on the disk.*the same command again"):
        run(tmp_path / "cut", works(scenes[:2]), with_records=with_records)
    file_limit(None)
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    entries = run(tmp_path / "cut", works(scenes[:2]), with_records=with_records)
    assert "failed" not in {entry.status for entry in entries.values()}
    assert (tmp_path / "cut" / "dift.jsonl").read_text() == (
        tmp_path / "whole" / "dift.jsonl").read_text()


def test_a_full_disk_is_told_by_the_manifest_and_costs_no_line_before_it(tmp_path, file_limit):
    path = tmp_path / "manifest.jsonl"
    with pytest.raises(DiskFullError, match=r"manifest\.jsonl: no space left on the disk"):
        with contextlib.closing(Manifest(tmp_path, {})) as manifest:
            manifest.add(Entry("a", "failed", "why"))
            file_limit(path.stat().st_size + 9)
            manifest.add(Entry("b", "failed", "why"))
    file_limit(None)
    with contextlib.closing(Manifest(tmp_path, {})) as manifest:
        assert list(manifest.entries) == ["a"]


def test_a_failed_video_is_tried_again_only_when_asked(tmp_path, scenes):
    calls = []

    def once():
        calls.append(1)
        if len(calls) == 1:
            raise InputError("b.mp4", "the disk was away", "Mount it")
        return [scenes[0]]

    todo = [VideoJob("b", once)]
    assert run(tmp_path, todo)["b"].status == "failed"
    assert run(tmp_path, todo)["b"].status == "failed" and len(calls) == 1
    assert run(tmp_path, todo, retry_failed=True)["b"].status == "done" and len(calls) == 2
    assert run(tmp_path, todo, retry_failed=True)["b"].status == "done" and len(calls) == 2


def test_an_empty_video_says_what_was_dropped(tmp_path, scenes):
    bare = dataclasses.replace(scenes[0], tracks=(), camera=(), provenance={})
    entries = run(tmp_path, works([bare]))
    entry = entries[bare.video_id]
    assert entry.status == "empty" and len(entry.dropped) == len(TYPES)
    assert list(jsonl.read(tmp_path / "dift.jsonl")) == []


def test_another_configuration_is_refused(tmp_path, scenes):
    run(tmp_path, works(scenes[:1]))
    with pytest.raises(InputError, match="seed was 1, is 2"):
        build.build_dataset(tmp_path, [], 0, build.DatasetSpec(TYPES, SPEC, seed=2),
                            config={"seed": 2})


def test_the_same_seed_gives_the_same_files(tmp_path, scenes):
    for name in ("one", "two"):
        run(tmp_path / name, works(scenes[:4] if name == "one" else scenes[3::-1]))
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*")
                   if p.name != "manifest.jsonl")
    assert len(files) > 40
    for file in files:
        one, two = (tmp_path / n / file for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), file


def test_base_shards_hold_free_text_and_are_kept(tmp_path):
    spec = SceneSpec()

    def part(start, count):
        return simulate_clips(spec, 8, start, count)

    pretraining.write_base(tmp_path, part, 16, kinds=TYPES, spec=SPEC, seed=1, quality=90)
    shards = records.find_shards(tmp_path)
    stamp = shards[0].stat().st_mtime_ns
    read = list(records.read_shards(shards))
    assert len(read) >= 40
    for record in read:
        assert not record.sample.options and not record.overlays and record.sample.response
        assert record.sample.kind.startswith(("describe_", "exercise_"))
    pretraining.write_base(tmp_path, part, 16, kinds=TYPES, spec=SPEC, seed=1, quality=90)
    assert shards[0].stat().st_mtime_ns == stamp


def test_whole_questions_are_watched_and_worked_out(scenes):
    pairs = []
    for clip in scenes[:6]:
        made = pretraining.base_samples(clip, TYPES, SPEC, np.random.default_rng(0), 90,
                                        pretraining_tasks.Practice(reasoned=1))
        own = [w.sample for w in made if w.sample.kind.startswith(("tell_", "work_"))]
        pairs += zip(own[::2], own[1::2], strict=True)
    assert len(pairs) >= 6
    for told, worked in pairs:
        choice = worked.response.removeprefix(told.response)
        tried = re.findall(r" ([A-D]\. .+?): (yes|no)\.", choice)
        assert [said for _, said in tried] == ["no"] * (len(tried) - 1) + ["yes"]
        assert worked.question.split("\n")[-4:][: len(tried)] == [option for option, _ in tried]
        assert told.response.endswith(f"{tried[-1][0][3:]}.")
        assert worked.question.endswith(told.question)
        where = re.findall(r"\d\.\ds at \d,\d size \d\.", told.response)
        assert len(where) >= 2 and all(w in worked.question for w in where)
        assert not any(w in told.question for w in where)


def test_more_choices_are_of_more_questions(scenes):
    few, many = (
        [w.sample for w in pretraining.base_samples(scenes[0], TYPES, SPEC,
                                                    np.random.default_rng(0),
                                                    90, pretraining_tasks.Practice(choices=count))
         if w.sample.kind.startswith("exercise_")] for count in (0, 4))
    kinds = len({one.kind for one in few})
    assert len(many) == len(few) + 4 * kinds > len(few)
    assert len({one.question for one in many}) > len({one.question for one in few}) + 2 * kinds


def test_a_conclusion_is_drawn_and_chosen_by(scenes):
    seen = []
    for clip in scenes[:6]:
        made = pretraining.base_samples(clip, TYPES, SPEC, np.random.default_rng(0), 90,
                                        pretraining_tasks.Practice(conclusions=2))
        seen += [w.sample for w in made if w.sample.kind.startswith("conclude_")]
    assert len(seen) >= 6
    whole = 0
    for sample in seen:
        found, conclusion, options = re.fullmatch(
            r"(.*?)(So .+?\.)((?: [A-D]\. .+?: (?:no|yes)\.)+)", sample.response).groups()
        notes, asked = sample.question.split("\n")[0], sample.question.split("\n")[-4:]
        assert notes.startswith(f"Notes: {found}") and conclusion not in notes
        tried = re.findall(r" ([A-D]\. .+?): (yes|no)\.", options)
        assert conclusion.endswith(f" {tried[-1][0][3:]}.") and tried[-1][1] == "yes"
        assert [option for option, _ in tried] == asked[: len(tried)]
        whole += " at " in found
    assert 0 < whole < len(seen)


def test_an_overlay_tints_the_mask_and_nothing_else():
    frame = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    drawn = overlay(frame, mask)
    np.testing.assert_array_equal(drawn[20, 20], [162, 60, 60])  # 0.6 * 100 + 0.4 * red
    np.testing.assert_array_equal(drawn[10, 20], [255, 0, 0])
    np.testing.assert_array_equal(drawn[~mask], frame[~mask])
    with pytest.raises(InputError, match="mask"):
        overlay(frame, mask[:20])


def test_files_are_never_left_half_written(tmp_path):
    write_files(tmp_path, {"a/b.jpg": b"12"})
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.jpg"]
