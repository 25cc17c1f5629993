"""Frozen descriptions of a model; everything a checkpoint needs to rebuild its modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec

Remat = Literal["none", "dots", "full"]
AttentionChoice = Literal["auto", "xla", "splash", "cudnn", "flash"]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of the vision encoder.

    Attributes:
      width: of the residual stream.
      layers, heads: number of blocks, and of attention heads in each.
      mlp: width inside a block's gated MLP.
      patch_size: side of a patch, pixels.
      temporal_patch: frames in one frame slot.
      merge: side of the square of patches the merger joins.
      window: side of an attention window, pixels.
      full_layers: blocks that attend over their whole slot; the others stay inside windows.
      tokens_per_second: temporal M-RoPE ids per second of video.
      channels: of an image.
      rope_theta: base of the rotary frequencies.
      eps: of the norms.
      position_table: side of the learned table of positions of ``TableVisionEncoder``, which has
        no windows; None: ``VisionEncoder``.
      deepstack: blocks whose merged patches are added to the decoder's stream after its first
        layers, one each (DeepStack, arXiv 2406.04334); None: no such blocks.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    full_layers: tuple[int, ...]
    patch_size: int = 14
    temporal_patch: int = 2
    merge: int = 2
    window: int = 112
    channels: int = 3
    rope_theta: float = 10_000.0
    eps: float = 1e-6
    tokens_per_second: float = 2.0
    position_table: int | None = None
    deepstack: tuple[int, ...] | None = None

    @property
    def levels(self) -> int:
        """Number of DeepStack features beside the merger's own."""
        return len(self.deepstack or ())

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_dim(self) -> int:
        return self.channels * self.temporal_patch * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of the language decoder.

    Attributes:
      width: of the residual stream.
      layers, heads, kv_heads: number of blocks, of attention heads in each, of keys and values.
      head_dim: width of an attention head.
      mlp: width inside a block's gated MLP.
      vocab: rows of the embedding table.
      mrope_sections: rotary frequencies given to time, height and width; they sum to head_dim / 2.
      tied: the vocabulary head is the embedding table.
      valid_vocab: rows the tokenizer can produce, when the table is padded beyond them.
      max_positions: most positions of a row.
      rope_theta: base of the rotary frequencies.
      eps: of the norms.
      qkv: None: biases on queries, keys and values. ``normed``: none, and an RMS norm over the head
        width on queries and keys.
      mrope: how the sections lie among the frequencies. None: one after the other.
        ``interleaved``: height and width take turns with time, which keeps the slowest.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    mrope_sections: tuple[int, int, int] = (16, 24, 24)
    rope_theta: float = 1_000_000.0
    eps: float = 1e-6
    tied: bool = False
    valid_vocab: int | None = None
    max_positions: int = 128_000
    qkv: Literal["normed"] | None = None
    mrope: Literal["interleaved"] | None = None


@dataclasses.dataclass(frozen=True)
class ImageryConfig:
    """How a hidden state becomes a latent.

    Attributes:
      head: ``identity`` feeds the hidden state itself (the paper); ``mlp`` adds a gated residual
        correction that starts at zero; ``constant`` feeds one trained vector in every place: a
        marker without content, to compare with.
      mlp: width of that correction.
      centred: latents of a block; the mean target of each is kept with the weights
        (``imagery/mean``, over all that training has seen) and taken off every target.
    """

    head: Literal["identity", "mlp", "constant"] = "identity"
    mlp: int = 0
    centred: int | None = None


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters, arXiv 2106.09685: y = x W + (alpha / rank) x A B, B starting at zero.

    Attributes:
      rank: of the two factors.
      alpha: their product is scaled by alpha / rank.
      targets: names of the decoder projections that get one.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
      vision, decoder, imagery: its parts.
      lora: low-rank adapters on the decoder; None for none.
      family: name of the architecture; see ``models.families``.
      dtype: of activations and matrix products.
      param_dtype: of stored parameters.
      remat: what the backward pass keeps of each block: ``none`` rematerialises nothing, ``dots``
        keeps matrix products without a batch axis, ``full`` keeps only block inputs.
      attention: implementation; ``auto`` chooses by platform.
      unroll: blocks unrolled in each step of the scan over layers.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    imagery: ImageryConfig = ImageryConfig()
    lora: LoraConfig | None = None
    family: str = "qwen2_5_vl"
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: Remat = "full"
    attention: AttentionChoice = "auto"
    unroll: int = 1

    def __post_init__(self) -> None:
        v, d = self.vision, self.decoder

        def need(good: bool, field: str, what: str, remedy: str) -> None:
            if not good:
                raise InputError(f"ModelConfig.{field}", what, remedy)

        need(v.width % v.heads == 0, "vision.heads", f"{v.heads} does not divide width {v.width}",
             "Choose a divisor")
        need(v.head_dim % 4 == 0, "vision.heads", f"head width {v.head_dim} is not a multiple of 4",
             "2-D rotary embedding needs four parts")
        need(v.window % (v.patch_size * v.merge) == 0, "vision.window",
             f"{v.window} is not a multiple of patch_size * merge = {v.patch_size * v.merge}",
             "Choose a window that holds whole merged tokens")
        need(all(0 <= i < v.layers for i in v.full_layers), "vision.full_layers",
             f"{v.full_layers} leave the range of {v.layers} layers", "Name existing layers")
        need(v.position_table is None or v.position_table > 1, "vision.position_table",
             f"bad value {v.position_table}", "Give a side of 2 or more, or leave it out")
        need(v.deepstack is None or v.position_table is not None, "vision.deepstack",
             "the windowed encoder has none", "Give vision.position_table, or leave it out")
        need(len(set(v.deepstack or ())) == v.levels <= d.layers
             and all(0 <= i < v.layers for i in v.deepstack or ()), "vision.deepstack",
             f"{v.deepstack} for {v.layers} and {d.layers} layers",
             "Name different layers of the encoder, no more than the decoder has")
        need(d.qkv in (None, "normed"), "decoder.qkv", f"unknown value {d.qkv!r}",
             "Use 'normed', or leave it out")
        need(d.mrope in (None, "interleaved"), "decoder.mrope", f"unknown value {d.mrope!r}",
             "Use 'interleaved', or leave it out")
        need(d.heads % d.kv_heads == 0, "decoder.kv_heads",
             f"{d.kv_heads} does not divide {d.heads} heads", "Choose a divisor")
        need(2 * sum(d.mrope_sections) == d.head_dim, "decoder.mrope_sections",
             f"{d.mrope_sections} sum to {sum(d.mrope_sections)}",
             f"They must sum to head_dim / 2 = {d.head_dim / 2:g}")
        need(d.valid_vocab is None or 0 < d.valid_vocab <= d.vocab, "decoder.valid_vocab",
             f"{d.valid_vocab} is outside the table of {d.vocab} rows", "Shrink it")
        need(self.imagery.head in ("identity", "mlp", "constant"), "imagery.head",
             f"unknown value {self.imagery.head!r}", "Use 'identity', 'mlp' or 'constant'")
        need(self.imagery.head != "mlp" or self.imagery.mlp > 0, "imagery.mlp",
             "the mlp head has no width", "Give imagery.mlp > 0")
        need(self.imagery.centred is None or self.imagery.centred > 0, "imagery.centred",
             f"bad value {self.imagery.centred}", "Give the latents of a block, or leave it out")
        need(self.remat in ("none", "dots", "full"), "remat", f"unknown value {self.remat!r}",
             "Use 'none', 'dots' or 'full'")
        need(self.attention in ("auto", "xla", "splash", "cudnn", "flash"), "attention",
             f"unknown value {self.attention!r}",
             "Use 'auto', 'xla', 'splash', 'cudnn' or 'flash'")
        if self.lora is not None:
            unknown = set(self.lora.targets) - {"q", "k", "v", "o", "gate", "up", "down"}
            need(not unknown, "lora.targets", f"unknown projections {sorted(unknown)}",
                 "Choose among q, k, v, o, gate, up, down")
            need(self.lora.rank > 0, "lora.rank", f"{self.lora.rank} is not positive",
                 "Give a rank, or lora=None")

    def protocol(self, **overrides: Any) -> ProtocolSpec:
        """The token protocol whose patches this model reads; ``overrides`` set the rest."""
        v = self.vision
        own: dict[str, Any] = dict(
            patch_size=v.patch_size, temporal_patch=v.temporal_patch, merge=v.merge,
            window=v.window, tokens_per_second=v.tokens_per_second)
        if v.position_table is not None:
            own |= dict(times="text", budget="video", system="", image_mean=(0.5,) * 3,
                        image_std=(0.5,) * 3)
        return ProtocolSpec(**(own | overrides))

    def check_protocol(self, protocol: ProtocolSpec, where: object = "protocol") -> None:
        """Raises InputError unless ``protocol`` makes the patches this model reads."""
        v = self.vision
        wrong = [f"{name} {getattr(protocol, name)} (model: {getattr(v, name)})"
                 for name in ("patch_size", "temporal_patch", "merge", "window")
                 if getattr(protocol, name) != getattr(v, name)]
        if wrong:
            raise InputError(where, "does not fit the model: " + ", ".join(wrong),
                             "Use the protocol saved with the checkpoint")

    def check_latents(self, protocol: ProtocolSpec, where: object = "protocol") -> None:
        """Raise InputError unless the means kept are of as many latents as a block has."""
        kept = self.imagery.centred
        if kept is not None and kept != protocol.latent_size:
            raise InputError(where, f"latent_size is {protocol.latent_size}, the model keeps the "
                             f"means of {kept} latents",
                             "Give model.imagery.centred the same number")

    def changed(self, **fields: Any) -> ModelConfig:
        """The config with some fields set; a part (``lora``, …) may be a mapping of its fields.

        Raises InputError on unknown fields.
        """
        now = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        unknown = sorted(set(fields) - set(now))
        if unknown:
            raise InputError("config.model", f"unknown fields {unknown}", f"Known: {sorted(now)}")
        for name, value in fields.items():
            if isinstance(value, Mapping):
                before = {} if now[name] is None else vars(now[name])
                value = _build(_PARTS[name], {**before, **value}, f"config.model.{name}")
            now[name] = value
        return ModelConfig(**now)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], where: object = "model") -> ModelConfig:
        """Raises InputError on unknown or missing fields."""
        return _build(cls, value, where)


_PARTS = {"vision": VisionConfig, "decoder": DecoderConfig, "imagery": ImageryConfig,
          "lora": LoraConfig}


def _build(cls: Any, value: Any, where: object) -> Any:
    if not isinstance(value, dict):
        raise InputError(where, f"{type(value).__name__} instead of an object",
                         f"Give the fields of {cls.__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    missing = sorted(name for name, field in fields.items() if name not in value
                     and field.default is dataclasses.MISSING)
    if unknown or missing:
        raise InputError(where, f"unknown fields {unknown}, missing fields {missing}",
                         f"Known: {sorted(fields)}")
    kwargs = {}
    for name, item in value.items():
        if cls is ModelConfig and name in _PARTS and item is not None:
            item = _build(_PARTS[name], item, f"{where}.{name}")
        kwargs[name] = tuple(item) if isinstance(item, list) else item
    return cls(**kwargs)
