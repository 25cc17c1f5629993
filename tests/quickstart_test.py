"""The quickstart's plan: real commands of real configs, and clear errors. Running it is slow."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs import quickstart as quickstart_config
from fourd4d.core.errors import InputError
from fourd4d.quickstart import run


def config(**changes: Any) -> Any:
    value = quickstart_config.get_config()
    value.lock()
    value.update_from_flattened_dict(changes)
    return value


def test_every_stage_sets_fields_that_its_config_has(tmp_path: Path) -> None:
    plan = run.stages(config(), tmp_path, tmp_path / "clip.mp4")
    assert [stage.package for stage in plan] == [
        "synth", "synth", "synth", "eval", "dift", "eval", "rl", "eval"]
    for stage in plan:
        section = importlib.import_module(f"configs.{stage.config}").get_config()
        section.lock()
        for field in stage.fields:
            at = section
            for part in field.split("."):
                at = at[part]  # A misspelt field raises KeyError.
        assert f"configs/{stage.config}.py" in stage.shown()


def test_without_a_video_the_other_stages_remain(tmp_path: Path) -> None:
    names = [stage.name for stage in run.stages(config(), tmp_path, None)]
    assert "synth-video" not in names and len(names) == 7


def test_training_and_held_out_clips_do_not_overlap(tmp_path: Path) -> None:
    train, test = run.stages(config(), tmp_path, None)[:2]
    assert train.fields["clips"] <= test.fields["start"]


def test_video_is_found_or_refused(tmp_path: Path) -> None:
    assert run.find_video("none") is None
    with pytest.raises(InputError, match="no such file"):
        run.find_video(str(tmp_path / "nothing.mp4"))
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert run.find_video(str(tmp_path / "clip.mp4")) == tmp_path / "clip.mp4"


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(json.dumps(
        {"synth-scenes": {"command": "another", "seconds": 1.0}}))
    with pytest.raises(InputError, match="another command"):
        run.quickstart(config(workdir=str(tmp_path), video="none"), Console(quiet=True))


def test_a_failing_stage_says_where_its_log_is(tmp_path: Path) -> None:
    stage = run.Stage("broken", "synth", "synth_quickstart", {"no_such_field": 1})
    with pytest.raises(InputError, match="no_such_field") as caught:
        run.run_stage(stage, tmp_path, Console(quiet=True))
    assert str(tmp_path / "logs" / "broken.log") in str(caught.value)


@pytest.mark.slow
def test_the_whole_chain_runs_and_resumes(tmp_path: Path) -> None:
    small = config(workdir=str(tmp_path), train_clips=60, test_clips=24, dift_steps=12, rl_steps=1)
    result = run.quickstart(small, Console(quiet=True))
    assert result["items"] > 10 and result["chance"] == pytest.approx(0.25)
    assert "What the model thinks" in (tmp_path / "report.html").read_text()
    again = run.quickstart(small, Console(quiet=True))
    assert again["seconds"] == result["seconds"]  # Nothing ran twice.
