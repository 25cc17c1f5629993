"""The parity benchmark of the family that transformers 5 is compared with, where that is there."""

from __future__ import annotations

import argparse
import importlib.util

import pytest

from fourd4d.bench import parity
from fourd4d.bench.hf_parity import compare, reference
from fourd4d.core.errors import InputError
from fourd4d.models import preset
from fourd4d.models.presets import published

FAMILY = "qwen3_vl"


def arguments(line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parity.arguments(parser)
    return parser.parse_args(["--family", FAMILY, *line.split()])


def test_every_comparison_on_a_few_layers():
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("transformers", minversion="5.0")
    metrics = parity.main(arguments("--shapes qwen3_2b --layers 4 --vision-layers 7 --tokens 8 "
                                    "--latent-tokens 36 --seed 3")).metrics
    assert metrics["cases"] == 11 and metrics["longest_sequence"] > 4096
    assert 0 < metrics["max_abs_logit_diff_fp32"] <= compare.TOLERANCE
    assert 0 < metrics["max_layer_diff_fp32"] <= compare.TOLERANCE
    assert 0 < metrics["latent_oracle_max_abs_diff"] <= compare.TOLERANCE
    assert metrics["bf16_error_ratio"] <= 1.05 and metrics["bf16_rms_logit_error"] > 1e-3
    for key in ("greedy_mismatches", "text_mismatches", "token_id_mismatches", "grid_mismatches",
                "position_id_mismatches", "export_mismatches"):
        assert metrics[key] == 0, key
    assert metrics["pixel_max_abs_diff"] < 1e-6  # It scales and normalises in one product.
    assert 0 < metrics["resizing_max_levels"] < 32


@pytest.mark.parametrize("name", published(FAMILY))
def test_reduced_sizes_keep_the_shape_of_the_code(name):
    small, full = reference.reduced(name), preset(name)
    for part, fields in (("vision", ("layers", "deepstack", "position_table", "patch_size")),
                         ("decoder", ("layers", "tied", "rope_theta", "qkv", "mrope"))):
        for field in fields:
            assert getattr(getattr(small, part), field) == getattr(getattr(full, part), field)
    assert small.decoder.width != small.decoder.heads * small.decoder.head_dim
    assert reference.reduced(name, 2, 7).vision.levels in (1, 2)


def test_what_is_not_installed_or_known_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: None if name == "torchvision" else find(name))
    with pytest.raises(InputError, match="not installed") as error:
        parity.main(arguments(""))
    assert "torchvision" in error.value.what and "fourd4d[parity5]" in error.value.remedy
