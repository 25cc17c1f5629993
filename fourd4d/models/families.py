"""Model families by the ``model_type`` of their ``config.json``; see README.md on adding one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from fourd4d.core.errors import InputError
from fourd4d.core.weight_map import KeyTable
from fourd4d.models import qwen2_5_vl, qwen3_vl
from fourd4d.models.config import ModelConfig
from fourd4d.processing.hf_files import ProcessorClasses


@runtime_checkable
class Family(Protocol):
    """What a family's folder offers.

    Attributes:
      CLASSES: transformers' classes that open its processor.
      CUSTOM_GENERATE: an export's ``custom_generate`` can decode it with mental images.
    """

    CLASSES: ProcessorClasses
    CUSTOM_GENERATE: bool

    def from_hf(self, value: dict[str, Any], where: object = ..., **fields: Any) -> ModelConfig: ...

    def to_hf(self, config: ModelConfig, dtype: str, **extra: Any) -> dict[str, Any]: ...

    def decoder_to_hf(self, config: ModelConfig) -> dict[str, Any]: ...

    def key_table(self, config: ModelConfig) -> KeyTable: ...


_FAMILIES: dict[str, Any] = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}


def family(name: object, where: object) -> Family:
    """The family called ``name``. Raises InputError on one we do not have."""
    if not isinstance(name, str) or name not in _FAMILIES:
        raise InputError(where, f"model_type {name!r} is not a known family",
                         f"Known: {sorted(_FAMILIES)}")
    return _FAMILIES[name]
