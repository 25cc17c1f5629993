"""What a decoding run may do, as one hashable value: rollouts and their replay share it."""

from __future__ import annotations

import dataclasses
from typing import Any

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing.tokenizer import Tokenizer

NOT_SAMPLED = (
    "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>", "<|latent_pad|>", "<|latent_end|>",
)
"""Control tokens that text mode never draws. ``<|latent_end|>`` is only ever forced."""

@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """Budget, distribution and special tokens of a decoding run.

    The distribution is the softmax of the logits over the allowed tokens: ids below ``vocab`` that
    are not ``forbidden``, and ``latent_start`` only while the row may still imagine. Log-probs
    describe exactly this distribution, so ``replay`` takes the same spec.

    Attributes:
      max_tokens: most tokens of a response, latents and forced tokens included.
      vocab: ids from here on are padding rows of the embedding table.
      latent_start, latent_pad, latent_end: ids of the imagery tokens.
      ends: ids that end a response.
      forbidden: ids never drawn.
      latent_size: latents of one block.
      max_latents: most latents of a row. A row whose buffer cannot hold another block does not
        draw ``latent_start`` any more.
      temperature: divides the logits; 0 is greedy, whose log-probs are those of temperature 1.
      top_p: keep the most probable tokens up to this mass, renormalised; 1 keeps all. No effect
        on greedy decoding.
      imagery: False never draws ``latent_start`` (the text-only baseline).
    """

    max_tokens: int
    vocab: int
    latent_start: int
    latent_pad: int
    latent_end: int
    ends: tuple[int, ...]
    forbidden: tuple[int, ...] = ()
    latent_size: int = 4
    max_latents: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    imagery: bool = True

    def __post_init__(self) -> None:
        def bad(field: str, remedy: str) -> InputError:
            return InputError(f"SamplingSpec.{field}", f"bad value {getattr(self, field)!r}",
                              remedy)

        if self.max_tokens < 1:
            raise bad("max_tokens", "Ask for at least one token")
        if self.latent_size < 1:
            raise bad("latent_size", "A block holds at least one latent")
        if self.max_latents < 0:
            raise bad("max_latents", "Use 0 for no imagery, else a multiple of latent_size")
        if self.temperature < 0:
            raise bad("temperature", "Use 0 for greedy decoding, else a positive number")
        if not 0 < self.top_p <= 1:
            raise bad("top_p", "Use a number above 0, at most 1")
        if not self.ends:
            raise bad("ends", "Give the id of the end-of-turn token")

    @classmethod
    def of(cls, tokenizer: Tokenizer, protocol: ProtocolSpec, **options: Any) -> SamplingSpec:
        """The spec of a tokenizer and a protocol; ``options`` are the remaining fields.

        Raises:
          InputError: an unknown or bad field.
        """
        unknown = sorted(set(options) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InputError("sampling", f"unknown fields {unknown}",
                             "Use the fields of SamplingSpec")
        name = tokenizer.id
        special = {n: name(n) for n in NOT_SAMPLED}
        fields = dict(
            latent_start=name("<|latent_start|>"), latent_pad=special["<|latent_pad|>"],
            latent_end=special["<|latent_end|>"],
            ends=(name("<|im_end|>"), name("<|endoftext|>")),
            forbidden=tuple(sorted(special.values())), latent_size=protocol.latent_size,
            vocab=tokenizer.vocab_size,
        )
        return cls(**{**fields, **options})

    @property
    def max_blocks(self) -> int:
        """Blocks that a row's buffer can hold."""
        return self.max_latents // self.latent_size if self.imagery else 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
