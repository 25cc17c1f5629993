"""The TFDS builder: same examples however the work is cut, readable without TensorFlow."""

import sys

import numpy as np
import pytest

from fourd4d.core.records import decode_sample
from fourd4d.synth.dataset import shards, tfds_scenes
from fourd4d.synth.questions.ask import QuestionSpec

SHORT = QuestionSpec(style="short")


def config(**more):
    return tfds_scenes.Config(name="small", description="small", train=16, test=4, bundle=8,
                              questions=SHORT, **more)


def made(config, start, count):
    """Keys and examples of clips ``start`` … ``start + count - 1``."""
    part = shards.Shard("train", 0, 1, range(start, start + count))
    for data in tfds_scenes.maker(config)(part):
        record = decode_sample(data)
        yield record.sample.id, shards.example(record)


def listed(pairs):
    return {key: {**value, "frames": [f.getvalue() for f in value["frames"]],
                  "overlays": [f.getvalue() for f in value["overlays"]]} for key, value in pairs}


def test_examples_do_not_depend_on_bundles():
    whole = listed(made(config(), 0, 8))
    parts = listed(made(config(), 0, 3))
    parts |= listed(made(config(), 3, 5))
    assert whole == parts and len(whole) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("beam", [False, True])
def test_the_dataset_builds_and_reads_back(tmp_path, beam, monkeypatch):
    if beam:
        pytest.importorskip("apache_beam")
        monkeypatch.setattr(sys, "argv", sys.argv[:1])  # Beam reads the command line.
    builder = tfds_scenes.Fourd4dScenes(data_dir=tmp_path, config=config(beam=beam),
                                        file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")
    expected = dict(made(config(), 0, 16))
    assert len(source) == len(expected)
    for one in source:
        truth = expected[one["id"].decode()]
        assert one["question"].decode() == truth["question"]
        assert one["answer"].decode() == truth["answer"]
        assert [o.decode() for o in one["options"]] == truth["options"]
        assert len(one["frames"]) == 8 and one["frames"][0].shape == (64, 64, 3)
        assert len(one["overlays"]) == truth["response"].count("<output_image>")
        np.testing.assert_allclose(one["timestamps"], truth["timestamps"])
