"""The parity benchmark on one shape: official processor, logits, greedy tokens, latent oracle."""

import argparse

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fourd4d.bench import parity


def test_one_shape_through_files():
    parser = argparse.ArgumentParser()
    parity.arguments(parser)
    metrics = parity.main(parser.parse_args(
        "--shapes 7b --tokens 16 --latent-tokens 36 --seed 3".split())).metrics
    assert metrics["cases"] == 10
    assert 0 < metrics["max_abs_logit_diff_fp32"] <= 1e-4
    assert 0 < metrics["latent_oracle_max_abs_diff"] <= 1e-4
    for key in ("greedy_mismatches", "token_id_mismatches", "position_id_mismatches",
                "pixel_max_abs_diff"):
        assert metrics[key] == 0, key
