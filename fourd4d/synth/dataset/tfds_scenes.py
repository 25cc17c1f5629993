"""Simulated clips as a TFDS dataset, made by Apache Beam: one shard of clips a task.

    python -m fourd4d.synth tfds scenes --config=full --file_format=array_record

``tfds build fourd4d/synth/dataset/tfds_scenes.py …`` does the same where TensorFlow is installed,
which that command imports. On a cluster, hand Beam its runner by ``--beam_pipeline_options=``:
``runner=DataflowRunner,project=…,region=…,temp_location=gs://…``,
``runner=FlinkRunner,flink_master=…`` or ``runner=SparkRunner,spark_master_url=…``. A clip depends
on its number and the seed only, so the dataset is the same for every runner and number of
workers. Finished shards are kept below ``<data_dir>/bundles``; the same command resumes a broken
run from there. Needs ``apache-beam`` (the ``synth`` extra) for the Beam path; a small
``Config`` builds without it in one process.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fourd4d.synth.dataset import shards
from fourd4d.synth.dataset.build import DatasetSpec
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.simulator.spec import SceneSpec

HELD_OUT = 100_000  # Number of the first held-out clip.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """What to simulate and ask.

    Attributes:
      train, test: clips of each split.
      bundle: clips of one shard, rendered in one process one after another.
      seed: of the sequence of clips.
      beam: whether Apache Beam makes the shards; else this process does.
    """

    train: int = 10_000
    test: int = 500
    bundle: int = 64
    seed: int = 7
    beam: bool = True
    scenes: SceneSpec = SceneSpec()
    questions: QuestionSpec = QuestionSpec()


def maker(config: Config) -> shards.Maker:
    """Return a function that makes a shard of clips by their numbers."""
    spec = DatasetSpec(tuple(QUESTION_TYPES), config.questions, config.seed)
    return functools.partial(shards.scene_maker, spec=spec, scenes=config.scenes)


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
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        shape = (config.scenes.height, config.scenes.width, 3)
        return tfds.core.DatasetInfo(builder=self, description=config.description,
                                     features=shards.features(shape))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        shards.claim(shards.folder_of(self), {
            "seed": config.seed, "bundle": config.bundle, "train": config.train,
            "test": config.test, "scenes": dataclasses.asdict(config.scenes),
            "questions": dataclasses.asdict(config.questions)})
        return {"train": self._generate_examples("train", 0, config.train),
                "test": self._generate_examples("test", HELD_OUT, config.test)}

    def _generate_examples(self, split: str, start: int, count: int) -> Any:
        config: Any = self.builder_config
        parts = shards.cut(split, range(start, start + count), config.bundle)
        return shards.generated(parts, shards.folder_of(self), maker(config), config.beam)
