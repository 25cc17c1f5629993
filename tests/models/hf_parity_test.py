"""Our Qwen2.5-VL against transformers' on random weights: positions aside, every stage compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.hf import Medium, hf_config, hf_model, load, make_rows, ours, rope_ids, their_stages  # noqa: E402

from fourd4d.models import Thinker  # noqa: E402

pytestmark = pytest.mark.usefixtures("highest_precision")
TOLERANCE = 1e-4

IMAGE = Medium("image", (1, 8, 8))
ODD = Medium("image", (1, 6, 10))
WIDE = Medium("image", (1, 2, 14))
VIDEO = Medium("video", (3, 4, 6), 0.5)
CASES = {
    "text": ([[17]], "right"),
    "one image": ([[4, IMAGE, 5]], "right"),
    "several images": ([[3, IMAGE, 2, ODD, 1, WIDE, 4]], "right"),
    "video": ([[3, VIDEO, 6]], "right"),
    "mixed": ([[2, VIDEO, 3, ODD, 2]], "right"),
    "ragged right": ([[12], [3, IMAGE, 9], [2, VIDEO, 1, ODD, 2]], "right"),
    "ragged left": ([[12], [3, IMAGE, 9], [2, VIDEO, 1, ODD, 2]], "left"),
}


@dataclasses.dataclass
class Pair:
    theirs: object
    thinker: Thinker


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf")
    theirs = hf_model(hf_config())
    theirs.save_pretrained(directory, safe_serialization=True)
    return Pair(theirs, load(directory))


@nnx.jit
def stages(thinker, rows):
    features = thinker.encode(rows["vision"])
    embeds = thinker.embed(rows["tokens"], rows["vision_index"], features)
    hidden, _ = thinker.decode(embeds, rows["positions"], rows["segment_ids"])
    return features, embeds, hidden, thinker.logits(hidden)


@pytest.mark.parametrize("case", CASES)
def test_stages_equal(pair, case):
    rows, side = CASES[case]
    inputs = make_rows(rows, seed=len(case), side=side)
    mine = ours(inputs, rope_ids(pair.theirs, inputs))
    real = mine["segment_ids"] > 0
    features, embeds, hidden, logits = stages(pair.thinker, mine)
    their_features, their_embeds, their_logits = their_stages(pair.theirs, inputs)
    if their_features:
        flat = np.asarray(features).reshape(len(real), -1, features.shape[-1])
        for pad, theirs in zip((400, 401), _by_kind(inputs, their_features), strict=True):
            at = (mine["tokens"] == pad) & real
            fed = np.concatenate([flat[b, mine["vision_index"][b][at[b]]] for b in range(len(at))])
            if at.any():
                np.testing.assert_allclose(fed, theirs, atol=TOLERANCE)
    np.testing.assert_allclose(np.asarray(embeds)[real], their_embeds[real], atol=TOLERANCE)
    assert np.abs(their_logits[real]).mean() > 0.3
    np.testing.assert_allclose(np.asarray(logits)[real], their_logits[real], atol=TOLERANCE)


def _by_kind(inputs, features):
    """transformers encodes images, then videos."""
    left = [f.numpy() for f in features]
    return [left.pop(0) if key in inputs else None
            for key in ("pixel_values", "pixel_values_videos")]
