r"""Video files, or rows of a JSONL file, as a TFDS dataset made by Apache Beam.

    python -m fourd4d.synth tfds videos --manual_dir=DIR --config=videos \
        --file_format=array_record

(``tfds build fourd4d/synth/dataset/tfds_videos.py …`` does the same where TensorFlow is installed,
which that command imports.) ``DIR`` holds the video files (config ``videos``), or ``dift.jsonl``
and the images it names (config ``jsonl``). Further settings are fields of ``Config``, given as
JSON:
``--config='{"name": "mine", "source": "videos", "seed": 3, "bundle": 8}'``.

To run on a cluster, give Beam its runner through ``--beam_pipeline_options``:

    runner=DataflowRunner,project=P,region=R,temp_location=gs://B/tmp,setup_file=./setup.py
    runner=FlinkRunner,flink_master=HOST:8081,environment_type=EXTERNAL,environment_config=H:50000
    runner=SparkRunner,spark_master_url=spark://HOST:7077

with ``--data_dir`` and ``--manual_dir`` where all workers see them. Finished shards are kept below
``<data_dir>/bundles``, as records that training reads; the same command resumes a broken run from
there. Needs ``apache-beam`` (the ``synth`` extra), or ``"beam": false`` to run in this process.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.synth import annotate
from fourd4d.synth.annotate import AnnotateSpec
from fourd4d.synth.camera import pose_backends
from fourd4d.synth.clip import Clip
from fourd4d.synth.dataset import shards
from fourd4d.synth.dataset.build import DatasetSpec
from fourd4d.synth.objects import mask_backends
from fourd4d.synth.objects.mask_backends import MaskSpec
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.video.discover import find_videos


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """What to read and how to annotate it.

    Attributes:
      source: ``videos`` or ``jsonl``.
      file: name of the JSONL file in the folder.
      seed: of questions and wordings.
      bundle: video files, or rows, of one shard.
      test: share of the videos that make the test split, chosen by name.
      beam: whether Apache Beam makes the shards; else this process does.
      poses, poses_root: see ``pose_backend_finder``.
      masks, masks_root: source of masks, and its folder (or a SAM checkpoint's).
      fps, side, seconds, max_clips: see ``annotate.AnnotateSpec``.
    """

    source: str = "videos"
    file: str = "dift.jsonl"
    seed: int = 0
    bundle: int = 16
    test: float = 0.0
    beam: bool = True
    style: str = "full"
    parts: int = 3
    poses: str = "features"
    poses_root: str = ""
    masks: str = "motion"
    masks_root: str = ""
    fps: float = 2.0
    side: int = 448
    seconds: float = 10.0
    max_clips: int = 12

    def dataset_spec(self) -> DatasetSpec:
        """Return what is asked about every clip."""
        spec = QuestionSpec(style=self.style, varying=self.style == "full", parts=self.parts)
        return DatasetSpec(tuple(QUESTION_TYPES), spec, self.seed)

    def head(self) -> dict[str, Any]:
        """Return what the shards depend on."""
        skipped = ("name", "description", "release_notes", "tags", "beam")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                if f.name not in skipped}


def read_clips(path: str, name: str, config: Config) -> Iterable[Clip]:
    """Return the clips of a video file, annotated as the config says."""
    digest = AnnotateSpec(fps=config.fps, side=config.side, seconds=config.seconds,
                          max_clips=config.max_clips)
    masks = MaskSpec(config.masks, root=config.masks_root, model=config.masks_root)
    return annotate.iter_clips_with_backends(
        path, name, digest, pose_backends.pose_backend_finder(config.poses, config.poses_root),
        mask_backends.mask_backend_finder(masks))


def held_out(name: str, config: Config) -> bool:
    """Return whether a video is of the test split: by its name and the seed only."""
    digest = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < config.test * 2**32


class Fourd4dVideos(tfds.core.GeneratorBasedBuilder):
    """Questions about real videos, with reasoning and the overlays behind it."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put video files, or dift.jsonl with its images, into a folder."
    BUILDER_CONFIGS: ClassVar[list[Config]] = [
        Config(name="videos", description="All video files below the folder."),
        Config(name="jsonl", description="Rows in the published layout, with their images.",
               source="jsonl", bundle=256),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config: Any = self.builder_config
        return tfds.core.DatasetInfo(builder=self, description=config.description,
                                     features=shards.features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config: Any = self.builder_config
        root = Path(dl_manager.manual_dir)
        folder = shards.folder_of(self)
        shards.claim(folder, config.head() | {"root": str(root)})
        if config.source == "videos":
            numbered = list(enumerate(find_videos(root).items()))
            items = [(n, name, str(path)) for n, (name, path) in numbered]
            test = [held_out(name, config) for _, name, _ in items]
            maker = functools.partial(
                shards.video_maker, spec=config.dataset_spec(), failures=folder,
                clips=functools.partial(read_clips, config=config))
        elif config.source == "jsonl":
            path = root / config.file
            rows = list(jsonl.scan(path))
            items = [(offset, line) for offset, line, _ in rows]
            test = [held_out(sample.video_id or sample.id, config) for *_, sample in rows]
            maker = functools.partial(shards.jsonl_maker, path=str(path), root=str(root))
        else:
            raise InputError("config.source", f"unknown value {config.source!r}",
                             "Use 'videos' or 'jsonl'")
        splits = {"train": [i for i, out in zip(items, test) if not out],
                  "test": [i for i, out in zip(items, test) if out]}
        return {name: self._generate_examples(shards.cut(name, part, config.bundle), folder, maker)
                for name, part in splits.items() if part}

    def _generate_examples(self, parts: list[shards.Shard], folder: str,
                           maker: shards.Maker) -> Any:
        config: Any = self.builder_config
        return shards.generated(parts, folder, maker, config.beam)
