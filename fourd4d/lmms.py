"""What lmms-eval finds by this package's entry point; nothing heavy is imported for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Name ``--model fourd4d`` and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("fourd4d", chat_class_path="fourd4d.eval.lmms.Fourd4D")
