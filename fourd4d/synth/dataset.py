"""Simulated clips as a TFDS dataset, made by Apache Beam: one bundle of clips per work item.

    tfds build fourd4d/synth/dataset.py --file_format=array_record

On a cluster, hand Beam its runner: ``--beam_pipeline_options="runner=DataflowRunner,project=…,
region=…,temp_location=gs://…"``, ``runner=FlinkRunner,flink_master=…`` or
``runner=SparkRunner,spark_master_url=…``. A clip depends on its number and the seed alone, so the
dataset is the same for every runner and number of workers. Needs ``apache-beam`` (the ``synth``
extra) for the Beam path; a small ``Config`` builds without it in one process.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fourd4d.synth import pipeline
from fourd4d.synth.questions import KINDS, QuestionSpec
from fourd4d.synth.scenes.source import clips
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.write import Written

HELD_OUT = 100_000  # Number of the first held-out clip.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """What to simulate and ask.

    Attributes:
      train, test: clips of each split.
      bundle: clips of one work item, rendered in one process one after another.
      seed: names the sequence of clips.
      beam: whether Apache Beam does the work; else this process.
    """

    train: int = 10_000
    test: int = 500
    bundle: int = 64
    seed: int = 7
    beam: bool = True
    scenes: SceneSpec = SceneSpec()
    questions: QuestionSpec = QuestionSpec()


def bundle_examples(config: Config, start: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and examples of clips ``start`` … ``start + count - 1``; images as encoded files."""
    recipe = pipeline.Recipe(KINDS, config.questions, config.seed)
    for number, clip in enumerate(clips(config.scenes, config.seed, start, count), start):
        for one in pipeline.samples_of(clip, recipe, number * len(KINDS)).samples:
            yield one.sample.id, example(one)


def example(one: Written) -> dict[str, Any]:
    """The features of a sample."""
    sample, files = one.sample, one.files
    return {
        "id": sample.id, "video_id": sample.video_id, "type": sample.kind,
        "question": sample.question, "options": list(sample.options), "answer": sample.answer,
        "response": sample.response, "timestamps": list(sample.timestamps),
        "overlay_timestamps": list(sample.overlay_timestamps),
        "frames": [io.BytesIO(files[path]) for path in sample.frames],
        "overlays": [io.BytesIO(files[path]) for path in sample.overlays],
    }  # fmt: skip


class Fourd4dScenes(tfds.core.GeneratorBasedBuilder):
    """Questions about simulated scenes, with reasoning and the overlays behind it."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[Config]] = [
        Config(name="short", description="Short texts for tiny models.",
               questions=QuestionSpec(style="short")),
        Config(name="full", description="Reasoning in sentences.",
               questions=QuestionSpec(style="full")),
        Config(name="sample", description="A few clips, made in this process.", train=32, test=16,
               bundle=16, beam=False, questions=QuestionSpec(style="full")),
    ]  # fmt: skip

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        shape = (config.scenes.height, config.scenes.width, 3)
        features = tfds.features
        image = features.Image(shape=shape, encoding_format="jpeg")
        return tfds.core.DatasetInfo(
            builder=self, description=config.description,
            features=features.FeaturesDict({
                **{name: features.Text() for name in (
                    "id", "video_id", "type", "question", "answer", "response")},
                "options": features.Sequence(features.Text()),
                "timestamps": features.Sequence(features.Scalar(np.float64)),
                "overlay_timestamps": features.Sequence(features.Scalar(np.float64)),
                "frames": features.Sequence(image), "overlays": features.Sequence(image),
            }),
        )  # fmt: skip

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        return {"train": self._generate_examples(0, config.train),
                "test": self._generate_examples(HELD_OUT, config.test)}

    def _generate_examples(self, start: int, count: int) -> Any:
        config: Any = self.builder_config
        size = config.bundle
        bundles = [(a, min(size, start + count - a)) for a in range(start, start + count, size)]
        if not config.beam:
            return (pair for a, n in bundles for pair in bundle_examples(config, a, n))
        import apache_beam as beam

        return (beam.Create(bundles) | beam.Reshuffle()
                | beam.FlatMap(lambda part: bundle_examples(config, *part)))
