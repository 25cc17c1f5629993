"""The data benchmark: its keys, and that packing pads less."""

import json

from fourd4d.bench.__main__ import main


def test_packing_pads_less(tmp_path):
    out = tmp_path / "data.json"
    assert main(["data", "--clips", "16", "--batch", "8", "--steps", "2", "--threads", "0",
                 "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    metrics = result["metrics"]
    assert result["bench"] == "data" and metrics["examples"] == 16
    for key in ("padding_share", "slot_padding_share"):
        assert 0 < metrics[f"{key}_packed"] < metrics[key] < 1
    assert metrics["examples_per_second"] > 0 and metrics["measured_per_second"] > 0
