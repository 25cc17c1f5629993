"""Pytrees on disk. Orbax for training, Hugging Face safetensors in and out."""

from fourd4d.checkpoint.orbax import (
    CheckpointManager,
    Restored,
    processor_dir,
    read_specs,
    restore_params,
)
