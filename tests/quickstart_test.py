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


def config(recipe: str = "imagery", **changes: Any) -> Any:
    value = quickstart_config.get_config(recipe)
    value.lock()
    value.update_from_flattened_dict(changes)
    return value


NAMES = ["synth-scenes", "synth-held-out", "synth-video", "rows", "eval-base", "dift", "eval-dift",
         "dift-text", "eval-text", "probe", "rl", "eval-rl"]


@pytest.mark.parametrize("recipe", quickstart_config.RECIPES)
def test_every_stage_sets_fields_that_its_config_has(tmp_path: Path, recipe: str) -> None:
    plan = run.stages(config(recipe), tmp_path, tmp_path / "clip.mp4")
    assert [stage.name for stage in plan] == [
        name for name in NAMES if recipe == "imagery" or name != "rows"]
    for stage in plan:
        name, _, argument = stage.config.partition(":")
        section = importlib.import_module(f"configs.{name}").get_config(*filter(None, [argument]))
        section.lock()
        for field in stage.fields:
            at = section
            for part in field.split("."):
                at = at[part]  # A misspelt field raises KeyError.
        assert f"configs/{name}.py" in stage.shown()


def test_the_published_way_is_what_it_was(tmp_path: Path) -> None:
    """Its commands before there was another way, word by word; others stand between them."""
    plan = run.stages(config("published", dift_steps=200, rl_steps=24, train_clips=1200,
                             test_clips=480), Path("/w"), None)
    shown = {stage.name: stage.shown().removeprefix("python -m fourd4d.") for stage in plan}
    asked = "--config.data=/w/held_out/dift.jsonl --config.out=/w/eval"
    assert {name: shown[name] for name in shown if name not in ("dift-text", "eval-text", "probe")
            } == {
        "synth-scenes": "synth --config=configs/synth_quickstart.py --config.output=/w/scenes "
                        "--config.clips=1200",
        "synth-held-out": "synth --config=configs/synth_quickstart.py --config.output=/w/held_out "
                          "--config.clips=480 --config.start=100000",
        "eval-base": "eval --config=configs/eval_tiny.py --config.checkpoint=tiny-base "
                     f"{asked}-base"
                     " '--config.title=Held-out questions, base'",
        "dift": "dift --config=configs/dift_tiny.py --config.init=tiny-base "
                "--config.data.path=/w/scenes/dift.jsonl --config.workdir=/w/dift "
                "--config.steps=200",
        "eval-dift": "eval --config=configs/eval_tiny.py --config.checkpoint=/w/dift/checkpoints "
                     f"{asked}-dift '--config.title=Held-out questions, dift'",
        "rl": "rl --config=configs/rl_tiny.py --config.init=/w/dift/checkpoints "
              "--config.data.path=/w/scenes/rl.jsonl --config.workdir=/w/rl --config.steps=24",
        "eval-rl": "eval --config=configs/eval_tiny.py --config.checkpoint=/w/rl/checkpoints "
                   f"{asked}-rl '--config.title=Held-out questions, rl'",
    }


@pytest.mark.parametrize("recipe", quickstart_config.RECIPES)
def test_the_twin_differs_in_imagery_alone(tmp_path: Path, recipe: str) -> None:
    """Same base, steps, batch, seed and optimizer; the same clips."""
    plan = {stage.name: stage for stage in run.stages(config(recipe), tmp_path, None)}
    trained = []
    for name in ("dift", "dift-text"):
        file, _, arm = plan[name].config.partition(":")
        section = importlib.import_module(f"configs.{file}").get_config(*filter(None, [arm]))
        section.update_from_flattened_dict(
            {k: v if isinstance(v, int) else str(v) for k, v in plan[name].fields.items()})
        trained.append(section)
    imagery, text = trained
    for field in ("init", "steps", "batch", "seed", "optimizer", "trainable", "epochs"):
        assert imagery[field] == text[field]
    assert imagery.imagery and not text.imagery
    assert imagery.data.root == text.data.root
    assert not plan["eval-text"].fields["eval.imagery"]


def test_without_a_video_the_other_stages_remain(tmp_path: Path) -> None:
    names = [stage.name for stage in run.stages(config(), tmp_path, None)]
    assert names == [name for name in NAMES if name != "synth-video"]


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


@pytest.mark.parametrize("text", ["{", "[]", '{"dift": 1' + "0" * 400 + "}", "[" * 100_000,
                                  '{"dift": {"command": "x"}}', '{"dift": 3}'])
def test_a_damaged_list_of_stages_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(InputError, match=r"stages.json: .*Delete it to run the stages again"):
        run.quickstart(config(workdir=str(tmp_path), video="none"), Console(quiet=True))


def test_bad_choices_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.rows: unknown value 'loud'"):
        run.stages(config(rows="loud"), tmp_path, None)
    with pytest.raises(ValueError, match="unknown recipe 'paper'"):
        quickstart_config.get_config("paper")


def test_a_failing_stage_says_where_its_log_is(tmp_path: Path) -> None:
    stage = run.Stage("broken", "synth", "synth_quickstart", {"no_such_field": 1})
    with pytest.raises(InputError, match="no_such_field") as caught:
        run.run_stage(stage, tmp_path, Console(quiet=True))
    assert str(tmp_path / "logs" / "broken.log") in str(caught.value)


@pytest.mark.slow
def test_the_whole_chain_runs_and_resumes(tmp_path: Path) -> None:
    small = config(workdir=str(tmp_path), train_clips=60, test_clips=24, dift_steps=12, rl_steps=1,
                   probe_items=16)
    result = run.quickstart(small, Console(quiet=True))
    assert result["items"] > 10 and result["chance"] == pytest.approx(0.25)
    assert {"text_only_accuracy", "probe_swap_delta", "probe_zero_delta", "donor_follow_rate",
            "retrieval_top1", "cosine", "constant_cosine"} <= set(result)
    text = (tmp_path / "report.html").read_text()
    assert "What the model thinks" in text and "Does the answer depend" in text
    again = run.quickstart(small, Console(quiet=True))
    assert again["seconds"] == result["seconds"]  # Nothing ran twice.
