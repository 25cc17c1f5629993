"""The models. Vision encoder, language decoder, imagery head, their sizes and kernels."""

from fourd4d.models.config import (
    DecoderConfig,
    ImageryConfig,
    LoraConfig,
    ModelConfig,
    VisionConfig,
)
from fourd4d.models.presets import preset, preset_protocol
from fourd4d.models.thinker import Thinker
