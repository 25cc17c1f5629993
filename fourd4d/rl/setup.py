"""What the trainer's entry point needs besides objects: variants, shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError
from fourd4d.data.collate import Size, shape_of_sizes
from fourd4d.data.failures import FailureLimit
from fourd4d.data.pipeline import PreparePrompt, sizes_of
from fourd4d.data.source import Source
from fourd4d.losses import PolicySpec
from fourd4d.processing import Processor


def policy_spec(variant: str, max_tokens: int, changes: Mapping[str, Any]) -> PolicySpec:
    """The loss of a named variant, with some fields changed.

    Args:
      variant: ``grpo`` (the paper's), ``dr_grpo``, ``dapo``, ``gspo`` or ``cispo``.
      max_tokens: the response budget.
      changes: fields by name; None leaves the variant's value.

    Raises:
      InputError: another name, or unknown fields.
    """
    makers = {
        "grpo": PolicySpec,
        "dr_grpo": lambda **fields: PolicySpec.dr_grpo(max_tokens, **fields),
        "dapo": PolicySpec.dapo,
        "gspo": PolicySpec.gspo,
        "cispo": PolicySpec.cispo,
    }
    if variant not in makers:
        raise InputError("config.variant", f"unknown value {variant!r}",
                         f"Choose among {sorted(makers)}")
    try:
        return makers[variant](**{k: v for k, v in changes.items() if v is not None})
    except TypeError as error:
        raise InputError("config.policy", str(error), "Use the fields of PolicySpec") from error


def prompt_shape(source: Source, processor: Processor, rows: int, *, look_at: int | None = None,
                 round_to: int = 1, assumed_fps: float | None = None,
                 limit: FailureLimit | None = None) -> BatchShape:
    """The shape that holds ``rows`` prompts of the source, found by preparing them.

    Args:
      look_at: how many rows to prepare, spread evenly; by default all.
      limit: how many of them may be left out because they cannot be prepared.
    """
    prepare = PreparePrompt(processor, assumed_fps)
    sizes = sizes_of(source, lambda row: Size.of(prepare(row).example), look_at, limit)
    return shape_of_sizes(sizes, rows, round_to)


def trains_vision(params: Any) -> bool:
    """Whether the trainable weights include some of the vision encoder's."""
    return any(path[0] == "vision" for path, _ in nnx.to_flat_state(params))
