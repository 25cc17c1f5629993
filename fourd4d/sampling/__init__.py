"""Decoding with imagery, and the replay of what was decoded."""

from fourd4d.sampling.distribution import RowDraws
from fourd4d.sampling.engine import Engine, rollout
from fourd4d.sampling.loop import Imagined, Intervention, generate, read_head, row_keys, sample
from fourd4d.sampling.refill import EngineShape
from fourd4d.sampling.replay import replay
from fourd4d.sampling.spec import SamplingSpec
from fourd4d.sampling.text import texts

__all__ = [
    "Engine", "EngineShape", "Imagined", "Intervention", "RowDraws", "SamplingSpec", "generate",
    "read_head", "replay", "rollout", "row_keys", "sample", "texts",
]
