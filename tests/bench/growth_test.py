"""The picture of how cost grows, and the benchmark for GPUs, at their smallest."""

import json

import numpy as np
import pytest

from fourd4d.bench import growth
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
