"""The parity benchmark: every comparison with transformers, on one shape and on all of them."""

import argparse
import json

import jax
import numpy as np
import pytest

from fourd4d.bench import full_size, parity
from fourd4d.bench.hf_parity import compare, reference
from fourd4d.models import preset

pytest.importorskip("torch")
pytest.importorskip("transformers")

ZERO = ("greedy_mismatches", "text_mismatches", "token_id_mismatches", "position_id_mismatches",
        "grid_mismatches", "pixel_max_abs_diff", "export_mismatches")


def check(line: str, cases: int) -> None:
    parser = argparse.ArgumentParser()
    parity.arguments(parser)
    metrics = parity.main(parser.parse_args(line.split())).metrics
    assert metrics["cases"] == cases
    assert 0 < metrics["max_abs_logit_diff_fp32"] <= compare.TOLERANCE
    assert 0 < metrics["max_layer_diff_fp32"] <= compare.TOLERANCE
    assert 0 < metrics["latent_oracle_max_abs_diff"] <= compare.TOLERANCE
    assert metrics["bf16_error_ratio"] <= 1
    assert metrics["bf16_rms_logit_error"] > 1e-3
    assert metrics["longest_sequence"] > 4096
    for key in ZERO:
        assert metrics[key] == 0, key


@pytest.mark.slow
def test_one_shape_through_files():
    check("--shapes 7b --layers 3 --tokens 16 --latent-tokens 36 --seed 3", cases=9)


@pytest.mark.slow
def test_every_published_shape():
    check("--seed 11", cases=8 * 4 + 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return reference.make_pair(reference.reduced("3b", 2, 2), tmp_path_factory.mktemp("pair"), 3)


@pytest.mark.parametrize("kind, names", [
    ("text", ["text", "text"]), ("images", ["text", "odd image"]),
    ("videos", ["text", "video, odd"])])
def test_rows_without_one_kind_of_media(pair, kind, names):
    rows = {row.name: row for row in reference.make_rows(np.random.default_rng(5))}
    found = compare.Found("3b")
    with jax.default_matmul_precision("highest"):
        compare.compare_rows(pair, [rows[name] for name in names], found)
    stages = {"embeddings", "decoder layers", "final norm"}
    if kind != "text":
        stages |= {"blocks with windows", "blocks with full attention", "merged features"}
    assert found.stages.keys() == stages
    assert 0 < max(found.stages.values()) <= compare.TOLERANCE
    for case in found.cases:
        assert case.text == case.ids == case.positions == case.grids == case.pixels == 0
        assert 0 < max(case.right, case.left, case.packed) <= compare.TOLERANCE
        assert case.ours16 > 1e-3 and case.theirs16 > 1e-3


@pytest.mark.parametrize("name", compare.SHAPES)
def test_reduced_sizes_keep_the_shape_of_the_code(name):
    small, full = reference.reduced(name), preset(name)
    for part, fields in (("vision", ("layers", "full_layers", "patch_size", "window", "merge")),
                         ("decoder", ("layers", "tied", "rope_theta", "eps"))):
        for field in fields:
            assert getattr(getattr(small, part), field) == getattr(getattr(full, part), field)
    assert small.decoder.heads // small.decoder.kv_heads == (
        full.decoder.heads // full.decoder.kv_heads)
    assert small.decoder.kv_heads > 1


def test_sizes_asked_for():
    line = "--layers 2 --vision-layers 9 --head-dim 44 --grids 9x5 1x1 --videos 7@2.5"
    parser = argparse.ArgumentParser()
    parity.arguments(parser)
    args = parser.parse_args(line.split())
    small = compare.config_of("3b", args, args.layers)
    assert small.vision.layers == 9 and small.vision.full_layers == (7,)
    assert small.decoder.layers == 2 and small.decoder.mrope_sections == (5, 8, 9)
    assert reference.reduced("3b", vision_layers=3).vision.full_layers == (2,)
    rows = reference.make_rows(np.random.default_rng(0), args.grids, args.videos)
    assert [row.name for row in rows[8:]] == ["given grids", "given videos"]
    assert rows[9].media[0].frames.shape[0] == 7 and rows[9].rates == [2.5]
    for bad in ("--grids 9", "--grids 0x2", "--grids 1x65", "--videos 3", "--videos 3@0"):
        with pytest.raises(SystemExit):
            parser.parse_args(bad.split())


@pytest.mark.slow
def test_the_full_size_script_on_the_smallest_size(tmp_path):
    """Its steps, each in a process of its own, as for 3b."""
    assert full_size.main(["--size", "tiny", "--folder", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert 0 < found["ours32/max_abs_logit_diff"] <= compare.TOLERANCE
    assert found["ours/rms_error"] <= found["ours/rms_error_transformers"]
    assert found["ours32/same_next_token"] == 1 and found["ours32/tokens"] > 50
    assert found["export/differing_tensors"] == 0 and found["export/tensors"] > 50
    for key in ("write/save", "theirs/load", "ours/load", "export/save"):
        assert found[f"{key}_seconds"] > 0 and found[f"{key}_gb_per_second"] > 0
