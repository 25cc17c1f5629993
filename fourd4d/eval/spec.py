"""What is evaluated, how items are answered, and sources that ask and score by themselves."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

from flax import nnx

from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.eval.items import Record
from fourd4d.parallel import DEFAULT_RULES
from fourd4d.processing.processor import Processor
from fourd4d.sampling import SamplingSpec

_HOW_ONLY = ("rows", "slots", "length_step", "slot_step", "lookahead", "workers", "batch_tokens",
             "max_length", "cache_bytes")


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """How items are answered.

    Attributes:
      max_tokens, max_latents, temperature, top_p, imagery: as in ``SamplingSpec``; greedy here.
      seed: of the per-item seeds, which matter when ``temperature`` is above 0.
      assumed_fps: frames a second of frame lists without timestamps; 0 makes those items fail.
      rows: most prompts decoded together, on all devices of this host.
      slots: of these so many at once, each making room for the next as it ends
        (``sampling.rollout``); then what prompts begin with is read for each. 0: all, until the
        longest has ended.
      batch_tokens: most tokens of a batch's prompts, padding included. Prompts too long for it are
        decoded fewer at a time (rows are halved), in the end one by one. That is a matter of their
        own size: answers do not depend on the company.
      max_length: longest prompt, tokens; an item with a longer one fails, and so does one that
        exceeds the model's positions or the memory.
      length_step, slot_step: prompt lengths and frame slots are rounded up to multiples, so that
        few shapes are compiled.
      lookahead: batches' worth of prompts among which alike ones are sought.
      workers: threads that decode and tokenise.
      cache_bytes: of images, of frame slots and of vision features each, kept in the host's memory
        for other questions about the same frames.
    """

    max_tokens: int = 512
    max_latents: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    imagery: bool = True
    seed: int = 0
    assumed_fps: float = 0.0
    rows: int = 16
    slots: int = 0
    length_step: int = 64
    slot_step: int = 4
    lookahead: int = 8
    workers: int = 2
    batch_tokens: int = 131_072
    max_length: int = 32_768
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in _HOW_ONLY:
            least = int(name not in ("cache_bytes", "slots"))
            if getattr(self, name) < least:
                raise InputError(f"EvalSpec.{name}", f"bad value {getattr(self, name)}",
                                 f"Use {least} or more")

    def answers_json(self) -> dict[str, Any]:
        """The fields that answers depend on."""
        return {k: v for k, v in dataclasses.asdict(self).items()
                if k not in _HOW_ONLY}


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
      graphdef, states: ``graphdef, *states = nnx.split(model, …)``, on any devices.
      processor: the one the model was trained with.
      name: for logs and pages.
      mesh: of this host's devices, or None for one device.
      max_positions: M-RoPE ids that the model knows; 0 where that is unknown.
    """

    graphdef: Any
    states: tuple[Any, ...]
    processor: Processor
    name: str = "model"
    mesh: Any = None
    max_positions: int = 0

    @classmethod
    def of(cls, model: nnx.Module, processor: Processor, name: str = "model",
           mesh: Any = None) -> Subject:
        graphdef, state = nnx.split(model)
        return cls(graphdef, (state,), processor, name, mesh)

    def sampling(self, spec: EvalSpec) -> SamplingSpec:
        """The decoding budget and distribution for this tokenizer and protocol."""
        return SamplingSpec.of(
            self.processor.tokenizer, self.processor.protocol, max_tokens=spec.max_tokens,
            max_latents=spec.max_latents, temperature=spec.temperature, top_p=spec.top_p,
            imagery=spec.imagery)

    @property
    def row_split(self) -> int:
        """Devices over which the rows of a batch are split."""
        if self.mesh is None:
            return 1
        sizes = dict(self.mesh.shape)
        return math.prod(sizes.get(axis, 1) for axis in DEFAULT_RULES.mesh_axes("batch", True))


@runtime_checkable
class AskedSource(Protocol):
    """A source that says itself how its rows are asked and what an answer is worth."""

    def example(self, number: int, processor: Processor) -> Example: ...

    def about(self, number: int) -> Record:
        """Fields of the row's record, answered or not."""
        ...

    def score(self, number: int, text: str) -> Record:
        """``about`` and what a response is worth."""
        ...
