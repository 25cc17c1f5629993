"""The picture of how cost grows, and the benchmark for GPUs, at their smallest."""

import json

import numpy as np
import pytest

from fourd4d.bench import gpu, growth
from fourd4d.bench.__main__ import main
from fourd4d.core.errors import InputError


def test_slopes_of_powers():
    x = [1.0, 2.0, 5.0]
    assert growth.slope(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)
    assert growth.slope(x, [7.0] * 3) == pytest.approx(0, abs=1e-9)


def test_points_and_picture(tmp_path, monkeypatch):
    """The points here, in this process; the largest are left out."""
    def measured(axis, at, args):
        return growth._POINTS[axis](min(at, 40), args)

    monkeypatch.setattr(growth, "_measured", measured)
    out = tmp_path / "growth"
    assert main(["growth", "--out", str(out), "--most", "3000", "--axes", "rows", "--repeats", "1"]
                ) == 0
    found = json.loads((out / "growth.json").read_text())
    assert found["points"]["rows"]["at"] == [1000, 3000]
    assert np.all(np.array(found["points"]["rows"]["seconds"]) > 0)
    assert set(found["metrics"]) == {f"rows_{key}_{part}" for key in ("seconds", "bytes")
                                     for part in ("exponent", "last")}
    assert (out / "growth.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="leaves 1 points of rows"):
        growth.main(_args("--most", "1000"))
    with pytest.raises(InputError, match="--axes"):
        growth.main(_args("--axes", "frame"))


def _args(*words):
    import argparse

    parser = argparse.ArgumentParser()
    growth.arguments(parser)
    return parser.parse_args(["--axes", "rows", *words] if "--axes" not in words else list(words))


SMALL = ["--preset", "tiny", "--layers", "1", "--param_dtype", "float32", "--prompts", "2",
         "--group", "2", "--length", "32", "--tokens", "8", "--repeats", "1"]


def test_bytes_that_decoding_reads(tmp_path):
    out = tmp_path / "decode.json"
    assert main(["gpu", "--part", "decode", *SMALL, "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    token = 2 * 2 * 32 * 4  # Keys and values of two heads 32 wide, of float32, in one layer.
    cache = token * (2 * 32 + 4 * 8)
    weights = 4 * (1024 * 128 + 128 * 32 * (2 * 4 + 2 * 2) + 3 * 128 * 384)
    assert metrics["bytes_per_turn"] - cache == pytest.approx(weights, rel=0.01)
    assert metrics["tokens_per_second"] == pytest.approx(4 / metrics["seconds_per_turn"])


def test_a_part_that_fails_ends_nothing(tmp_path, monkeypatch):
    """And what the others found is kept."""
    def run(command, **_):
        if "dots" not in command:
            (tmp_path / f"{command[-1].rsplit('/', 1)[-1]}").write_text(
                json.dumps({"metrics": {"seconds": 2.0}}))
        return gpu.subprocess.CompletedProcess(command, int("dots" in command), "", "Out of memory")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert main(["gpu", *SMALL, "--attentions", "flash", "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["metrics"] == {"dift_flash_full/seconds": 2.0, "decode/seconds": 2.0}
    assert kept["context"]["failed"] == {"dift_flash_dots": "Out of memory"}
