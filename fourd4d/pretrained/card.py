"""The model card of an export: what it is, how it decodes, where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax

from fourd4d.core.protocol import ProtocolSpec
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.processing import Processor, chat_template

_CARD: Final = Path(__file__).parent / "assets" / "model_card.md"


def model_card(bundle: ModelBundle, dtype: str, title: str, origin: Mapping[str, Any]
               ) -> str:
    """Return the text of an export's ``README.md``.

    Args:
      bundle: what is exported, adapters merged.
      dtype: of the tensors beside it.
      origin: what is known of where the weights came from, by name.
    """
    config, protocol = bundle.config, bundle.processor.protocol
    mlp = config.imagery.head == "mlp"
    rows = [f"| {name} | {_cell(value)} |" for name, value in origin.items()]
    return _CARD.read_text(encoding="utf-8").format(
        family=config.family, title=title, latents=protocol.latent_size,
        head=" through a small gated network (`imagery_head/`)" if mlp else "",
        suffix=json.dumps(_suffix(bundle.processor)), inputs=_inputs(protocol),
        fps=protocol.fps, frames=protocol.max_frames, width=config.decoder.width,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(bundle.tree)), dtype=dtype,
        layers=config.decoder.layers,
        kind=f"gated residual, width {config.imagery.mlp}" if mlp else "identity",
        reader=("a second stream that sees no frames" if protocol.reader else
                "the stream that imagines"),
        provenance="\n".join(["| | |", "|---|---|", *rows]) if rows else "Not recorded.",
        protocol=json.dumps(protocol.to_json(), indent=2))


def _inputs(protocol: ProtocolSpec) -> str:
    """The lines that prepare a prompt and tell of the frames' times."""
    call = "inputs = processor(text=[prompt], videos=[frames], "
    if protocol.times is None:
        return (f'{call}return_tensors="pt")\n'
                f'inputs["second_per_grid_ts"] = [{protocol.temporal_patch} / fps]')
    return ("times = dict(total_num_frames=len(frames), fps=fps, "
            f"frames_indices=list(range(len(frames))))\n{call}video_metadata=[times],\n"
            '                   do_sample_frames=False, return_tensors="pt")')


def _suffix(processor: Processor) -> str:
    return chat_template.user_text("", processor.protocol)


def _cell(value: Any) -> str:
    """One line of a Markdown table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
