"""A loaded model for notebooks and scripts: a video and a question in, an answer out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from fourd4d.core.errors import InputError, asks_to_stop, one_line
from fourd4d.core.example import Example
from fourd4d.core.options import Options, checked_options, with_options
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import LETTERS, Sample
from fourd4d.data.collate import bucket, bucketed_shape, collate
from fourd4d.data.media import load_media
from fourd4d.eval.heatmaps import mental_images
from fourd4d.eval.runner import encode
from fourd4d.pages import Card, MentalImage, fragment
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.parallel.memory import Room, is_out_of_memory
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.processing import Processor, parse_answer
from fourd4d.processing.answers import tagged_answer
from fourd4d.processing.latent_spans import marked
from fourd4d.processing.media import Image, Video, decode_image, read_image
from fourd4d.processing.video import read_video
from fourd4d.sampling import SamplingSpec, generate, texts

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
      text: the whole response, imagery tokens included.
      letter: the option it chose; None without options, or when the answer is not well-formed.
      latents: the vectors it imagined, in order.
      truncated: the budget ended the response.
      question, options: what was asked; options by what they are called.
      frames: those that were seen, (T, H, W, 3); of the first video or image where sizes differ.
      timestamps: seconds, one a frame; empty for images.
      slot_frames: the frame that stands for each slot of the maps.
      maps: of each mental image in order, if they were asked for: the cosine of every latent with
        the video's own features, plain and without their mean; (2, latents, slots, rows, columns).
        Empty where the media are of different sizes.
    """

    text: str
    letter: str | None
    latents: Float[np.ndarray, "Q D"]
    truncated: bool
    question: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    frames: UInt8[np.ndarray, "T H W 3"] | None = None
    timestamps: tuple[float, ...] = ()
    slot_frames: tuple[int, ...] = ()
    maps: tuple[Float[np.ndarray, "2 _ _ _ _"], ...] = ()

    def _repr_html_(self) -> str:
        keys, response = list(self.options), marked(self.text)
        letter = LETTERS[keys.index(self.letter)] if self.letter in keys else ""
        facts = [f"{len(self.latents)} latents"] + ["cut off by the budget"] * self.truncated
        return fragment(Card(
            key="", kind="answer", question=self.question, options=list(self.options.values()),
            answer="", chosen=letter, judged=False, response=response,
            frames=np.zeros((0, 1, 1, 3), np.uint8) if self.frames is None else self.frames,
            timestamps=self.timestamps, slot_frames=self.slot_frames, facts=facts,
            images=[MentalImage(m) for m in self.maps]).html())


class Answerer:
    """A model and its processor; ``bundle`` holds both."""

    def __init__(self, bundle: ModelBundle, mesh: Any):
        self.bundle = bundle
        self._mesh = mesh
        self._room = Room(list(mesh.devices.flat))

    def answer(self, media: Any, question: str, options: Options = (), *,
               max_tokens: int = 512, temperature: float = 0.0, imagery: bool = True,
               seed: int = 0, maps: bool = False) -> Answer:
        """The model's response.

        Args:
          media: a video file, an image file, a ``Video``, an ``Image``, or a list of these.
          question: without its options.
          options: texts, lettered A, B, … in the prompt; numbers are written out. Of a mapping,
            the values are the texts, its keys stand before them in the prompt in place of letters,
            and the answer's ``letter`` is one of them.
          max_tokens: most tokens of the response, latents included.
          temperature: 0 is greedy.
          imagery: False never imagines.
          maps: also tell where each mental image looks; see ``Answer.maps``.

        Raises:
          InputError: unreadable media; options that are not texts or numbers, or that are more
            than there are letters; a prompt that the memory or the model's positions have no room
            for; whatever else is raised on the way.
        """
        keys, said_options = checked_options(options)
        processor = self.bundle.processor
        text = with_options(question, keys, said_options)
        items = media if isinstance(media, list | tuple) else [media]
        with _one_error("media"):
            found = [self._read(item) for item in items]
        with _one_error("prompt"):
            example = processor.prompt(text, found)
        with _one_error(f"prompt of {example.length} tokens"):
            rollout, spec = self._sample([example], jax.random.key(seed), max_tokens,
                                         temperature=temperature, imagery=imagery)
            said = texts(rollout, processor.tokenizer, spec)[0]
        count = int(np.max(np.asarray(rollout.latent_index[0]), initial=-1)) + 1
        latents = np.asarray(rollout.latents[0, :count])
        frames, times, slots = _shown(found, processor.protocol.temporal_patch)
        looks: list[Any] = []
        if maps and slots and count:
            with _one_error("heat maps"):
                looks = mental_images(latents, self._features(example), example,
                                      processor.protocol)
        return Answer(said, parse_answer(said, said_options, keys), latents,
                      bool(rollout.truncated[0]), question,
                      dict(zip(keys, said_options, strict=True)), frames, times, slots,
                      tuple(looks))

    def _features(self, example: Example) -> np.ndarray:
        """What the vision encoder makes of a prompt's frames, (F, U, E)."""
        bundle = self.bundle
        batch = collate([example], bucketed_shape([example]), bundle.processor.protocol)
        with use(self._mesh):
            vision = host_to_global(batch, self._mesh).vision
            return np.asarray(jax.device_get(encode(bundle.graphdef, (bundle.tree,), vision)))[0]

    def say(self, text: str, images: Sequence[bytes] = (), *, max_tokens: int = 512) -> str:
        """The greedy response to a plain prompt about image files, without any mental image.

        The prompt gets no suffix, so that it may ask for any form of reply. Of a response with
        ``<answer>`` tags, what stands in the last is given.
        """
        protocol = dataclasses.replace(self.bundle.processor.protocol, suffix="none")
        processor = Processor(self.bundle.processor.tokenizer, protocol)
        with _one_error("images"):
            found = [decode_image(data) for data in images]
        with _one_error("prompt"):
            example = processor.prompt(text, found)
        with _one_error(f"prompt of {example.length} tokens"):
            rollout, spec = self._sample([example], jax.random.key(0), max_tokens,
                                         temperature=0.0, imagery=False)
            said = texts(rollout, processor.tokenizer, spec)[0]
        answer = tagged_answer(said)
        return said if answer is None else answer

    def tries(self, samples: Sequence[Sample], count: int, *, root: str | os.PathLike[str],
              max_tokens: int = 512, temperature: float = 1.0, seed: int = 0,
              assumed_fps: float | None = None) -> list[list[str | None]]:
        """The letters of ``count`` sampled responses to each question; None where there is none.

        Each prompt is read once for all its responses. What is drawn depends on the question's id
        and the seed, not on its company. A question that cannot be asked has no letters; a warning
        says why.

        Raises:
          InputError: no question can be answered, and memory is not the reason.
        """
        processor = self.bundle.processor
        letters: list[list[str | None]] = [[None] * count for _ in samples]
        examples: dict[int, Example] = {}
        for i, one in enumerate(samples):
            try:
                media, _ = load_media(one, Path(root), processor.protocol, assumed_fps=assumed_fps,
                                      with_overlays=False)
                examples[i] = processor.prompt(one.text_input, media)
            except BaseException as error:
                _left_out(one, error)

        def ask(asked: Sequence[int]) -> list[int]:
            try:
                seeds = [zlib.crc32(f"{seed}/{n}/{samples[i].id}".encode())
                         for i in asked for n in range(count)]
                padding = [0] * ((bucket(len(asked), fine=4) - len(asked)) * count)
                keys = jax.vmap(jax.random.key)(np.array(seeds + padding, np.uint32))
                rollout, spec = self._sample([examples[i] for i in asked], keys, max_tokens, count,
                                             temperature=temperature)
                said = texts(rollout, processor.tokenizer, spec)
                for row, i in enumerate(asked):
                    letters[i] = [parse_answer(text, list(samples[i].options))
                                  for text in said[row * count : (row + 1) * count]]
                return list(asked)
            except BaseException as error:
                if asks_to_stop(error):
                    raise
                failed = error
            if len(asked) > 1:
                half = len(asked) // 2
                return ask(asked[:half]) + ask(asked[half:])
            if len(examples) == 1 and not is_out_of_memory(failed):
                raise InputError(f"sample {samples[asked[0]].id!r}", one_line(failed)) from failed
            _left_out(samples[asked[0]], failed)
            return []

        if examples:
            ask(list(examples))
        return letters

    def _sample(self, examples: Sequence[Example], rng: Any, max_tokens: int, count: int = 1,
                **options: Any) -> tuple[Rollout, SamplingSpec]:
        """``count`` responses to each prompt, padding rows after them.

        Shapes and the budget of tokens are rounded up, so that few programs are compiled.
        """
        processor, bundle = self.bundle.processor, self.bundle
        known = bundle.config.decoder.max_positions
        last = max(int(example.positions.max()) for example in examples) + max_tokens
        if last >= known:
            raise InputError("prompt", f"with {max_tokens} tokens of response it reaches position "
                             f"{last}, the model knows {known}", "Shorten it")
        # What is asked for is checked before it is rounded.
        SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=max_tokens, **options)
        spec = SamplingSpec.of(processor.tokenizer, processor.protocol,
                               max_tokens=bucket(max_tokens, 64, 4), **options)
        shape = bucketed_shape(examples)
        batch = collate(examples, shape, processor.protocol)
        with use(self._mesh):
            args = (bundle.graphdef, (bundle.tree,), host_to_global(batch, self._mesh), rng, spec,
                    count, None, None, None, np.int32(max_tokens))
            self._room.check((shape, spec, count), generate, *args)
            return jax.device_get(generate(*args)), spec

    def _read(self, item: Any) -> Video | Image:
        if isinstance(item, Video | Image):
            return item
        if Path(item).suffix.lower() in _PICTURES:
            return read_image(item)
        protocol = self.bundle.processor.protocol
        return read_video(item, protocol.fps, protocol.max_frames)


def _shown(media: Sequence[Video | Image], patch: int
           ) -> tuple[np.ndarray, tuple[float, ...], tuple[int, ...]]:
    """Frames, their times, and the first frame of each slot, which no times of several media have.

    Where sizes differ, the first medium's frames, and no slots.
    """
    parts = [m.frames if isinstance(m, Video) else m.pixels[None] for m in media]
    if len({part.shape[1:] for part in parts}) > 1:
        parts, media, patch = parts[:1], media[:1], 0
    starts = np.cumsum([0, *map(len, parts)])
    slots = [int(start) + i for start, part, m in zip(starts, parts, media, strict=False)
             for i in range(0, len(part), patch if isinstance(m, Video) else 1)] if patch else []
    times = tuple(map(float, media[0].timestamps)) if len(media) == 1 and isinstance(
        media[0], Video) else ()
    return np.concatenate(parts), times, tuple(slots)


@contextlib.contextmanager
def _one_error(where: str) -> Iterator[None]:
    """Whatever is raised becomes an InputError in one line."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if asks_to_stop(error):
            raise
        raise InputError(where, one_line(error), "Give another") from error


def _left_out(one: Sample, error: BaseException) -> None:
    if asks_to_stop(error):
        raise error
    logging.warning("no answers to sample %r: %s", one.id, one_line(error))


def load(directory: str | os.PathLike[str], *, mesh: str = "single", step: int | None = None,
         **model: Any) -> Answerer:
    """A trainer's or a Hugging Face directory, ready to answer; ``hf://OWNER/NAME[/FOLDER]`` is
    fetched from the hub.

    Args:
      mesh: a mesh preset or axis sizes; see ``parallel.make_mesh``.
      step: of a trainer's directory; the newest by default.
      model: fields of ``ModelConfig`` set for this use (dtype, attention, …); for a Hugging Face
        directory also ``huggingface.open_hf``'s own arguments (``new_tokens="mean"``).

    Raises:
      InputError: see ``pretrained.open.open_checkpoint``.
    """
    where = make_mesh(mesh, jax.local_devices()[:1] if mesh == "single" else None)
    with use(where):
        return Answerer(open_checkpoint(directory, where, step=step, **model), where)
