"""Every config of ``configs/`` builds what it configures, rejects unknown fields, is on record.

``UPDATE_GOLDEN=1 pytest tests/config_test.py`` rewrites the records after a meant change.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from configs import dift_qwen3, rl_qwen3
from fourd4d.config.build import frozen
from fourd4d.config.flags import configs_of, define, only_given, read_flags
from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.data import Reading
from fourd4d.dift.step import DiftSpec
from fourd4d.eval.probes import ProbeSpec
from fourd4d.eval.spec import EvalSpec
from fourd4d.models import preset, preset_protocol
from fourd4d.models.config import LoraConfig
from fourd4d.parallel.mesh import axis_sizes
from fourd4d.rl.grpo import RLSpec
from fourd4d.rl.setup import policy_spec
from fourd4d.synth import __main__ as synth
from fourd4d.synth.annotate import AnnotateSpec
from fourd4d.train import OptimizerSpec

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
GOLDEN = ROOT / "tests" / "config_golden"
SECTIONS = {
    "dift": DiftSpec, "rl": RLSpec, "optimizer": OptimizerSpec, "eval": EvalSpec,
    "reading": Reading, "probe": ProbeSpec,
}


def load(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config()


def lines(config: ConfigDict, path: str = "config") -> list[str]:
    found = []
    for key in sorted(config):
        value = config.get_ref(key).get() if config.get_type(key) else config[key]
        where = f"{path}.{key}"
        if isinstance(value, ConfigDict):
            found += lines(value, where) or [f"{where} = {{}}"]
        else:
            found.append(f"{where} = {value!r}")
    return found


@pytest.fixture
def parse(monkeypatch):
    """Parses as the command line would."""

    def parse(name: str, *arguments: str, sections=None) -> ConfigDict:
        values = flags.FlagValues()
        define(values, sections)
        command = ["program", f"--config={ROOT / 'configs' / name}.py", *arguments]
        monkeypatch.setattr(sys, "argv", command)  # Overrides are looked up there.
        read_flags(command, values)
        return only_given(values.config, sections or ())

    return parse


def test_there_are_configs():
    sizes = {f"{stage}_{size}" for stage in ("dift", "rl")
             for size in ("tiny", "3b", "7b", "32b", "72b")}
    assert {*sizes, "dift_qwen3", "rl_qwen3", "dift_paper", "eval_heldout", "synth_quickstart"
            } <= set(NAMES)


@pytest.mark.parametrize("size", dift_qwen3.SIZES)
def test_a_familys_sizes_differ_in_names_and_mesh_alone(size):
    for module in (dift_qwen3, rl_qwen3):
        found = {line.replace(size, "SIZE") for line in lines(module.get_config(size))}
        changed = {line.split(" = ")[0] for line in found ^ {
            line.replace("8b", "SIZE") for line in lines(module.get_config())}}
        assert changed <= ({"config.mesh", "config.rl.accumulate"} if size == "32b" else set())
        assert preset_protocol(f"qwen3_{size}", **module.get_config(size).protocol)
        with pytest.raises(ValueError, match="choose among 2b, 4b"):
            module.get_config("3b")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command(name):
    text = importlib.import_module(f"configs.{name}").__doc__ or ""
    found = re.search(rf"python -m fourd4d\.(\w+)(?: \w+)? --config=configs/{name}\.py", text)
    found = found or re.search(rf"python -m fourd4d\.({name})\b", text)  # Its own default.
    assert found, f"configs/{name}.py: no command in its docstring"
    place = ROOT / "fourd4d" / found[1]
    assert (place / "__main__.py").exists() or place.with_suffix(".py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_on_record(name):
    path = GOLDEN / f"{name}.txt"
    text = "\n".join(lines(load(name))) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"run UPDATE_GOLDEN=1 pytest {Path(__file__).name}"
    assert text == path.read_text()


def test_no_record_without_its_config():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_the_frozen_specs(name):
    config = load(name)
    for section, cls in SECTIONS.items():
        if isinstance(config.get(section), ConfigDict):
            more = {"total_steps": config.steps} if section == "optimizer" else {}
            spec = frozen(cls, config[section], section, **more)
            given = {name: value for name, value in config[section].items()
                     if isinstance(value, bool | int | float | str) and hasattr(spec, name)}
            assert given and {name: getattr(spec, name) for name in given} == given
    if "protocol" in config:
        frozen(ProtocolSpec, config.protocol, "protocol")
    if "variant" in config:
        policy_spec(config.variant, 8, config.policy.to_dict())
    if "mesh" in config:
        axis_sizes(config.mesh, 8)
    if name.startswith("synth"):
        synth.question_spec(config)
    if "scene" in config:
        synth.scene_spec(config)
    if "digest" in config:
        frozen(AnnotateSpec, config.digest, "digest")


@pytest.mark.parametrize("size", ["3b", "7b", "32b", "72b"])
@pytest.mark.parametrize("chips", [8, 16, 64])
def test_batches_and_heads_part_over_the_chips_of_a_size(size, chips):
    dift, rl = load(f"dift_{size}"), load(f"rl_{size}")
    for config, rows in ((dift, dift.batch // dift.accumulate),
                         (rl, rl.prompts // rl.rl.accumulate)):
        if config.mesh == "gpu-node" and chips > 8:
            continue  # One node has no more.
        sizes = axis_sizes(config.mesh, chips)
        assert rows % (sizes["data"] * sizes["fsdp"]) == 0
        assert preset(size).decoder.kv_heads % sizes["tensor"] == 0
        assert preset(size).vision.heads % sizes["tensor"] == 0


@pytest.mark.parametrize("name", ["dift_paper", "dift_3b", "dift_7b", "dift_32b", "dift_72b"])
def test_dift_has_the_papers_numbers(name):
    config = load(name)
    assert frozen(DiftSpec, config.dift, "dift") == DiftSpec(text_weight=0.1, imagery_weight=1.0)
    spec = frozen(OptimizerSpec, config.optimizer, "optimizer", total_steps=config.steps)
    assert (spec.name, spec.learning_rate, spec.warmup_steps, spec.weight_decay) == (
        "adamw", 1e-5, 10, 0.01)
    assert (config.batch, config.epochs, config.steps) == (8, 1, 38_033 // 8)
    protocol = frozen(ProtocolSpec, config.protocol, "protocol")
    assert (protocol.suffix, protocol.pooling) == (
        ("released", "strips") if name == "dift_paper" else ("fourd4d", "grid"))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_fields_stop_the_command_line(name, parse):
    with pytest.raises(SystemExit, match=r"config\.bogus: no such field\. Known in config: "):
        parse(name, "--config.bogus=1")
    assert parse(name).is_locked


@pytest.mark.parametrize("flag, told", [
    ("--config.clipz=3", "config.clipz: no such field. Nearest: config.clips."),
    ("--config.scene.heigth=3", "Nearest: config.scene.height"),
    ("--config.height=3", "Nearest: config.scene.height"),
    ("--noconfig.record", "Nearest: config.records."),
    ("--config.clips.many=3", "config.clips is a value. Give --config.clips=VALUE."),
    ("--config.clips=many", "flag --config.clips=many"),
    ("--confg.clips=3", "Unknown command line flag 'confg.clips'"),
])
def test_misspelt_flags_end_with_one_line(flag, told, parse):
    with pytest.raises(SystemExit) as stop:
        parse("synth_quickstart", flag)
    line = str(stop.value)
    assert told in line and "\n" not in line


def test_a_missing_config_is_told(monkeypatch):
    values = flags.FlagValues()
    define(values)
    command = ["program", "--config=nowhere.py"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="nowhere.py: no such config file. Give --config=FILE."):
        read_flags(command, values)


def test_a_command_may_have_a_config_of_its_own(monkeypatch):
    default = str(ROOT / "configs" / "quickstart.py")

    def parse(*arguments):
        values = flags.FlagValues()
        define(values)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        read_flags(["program", *arguments], values, default)
        return values.config

    assert parse("--config.dift_steps=3").dift_steps == 3
    assert "checkpoint" in parse(f"--config={ROOT / 'configs' / 'eval_tiny.py'}")
    with pytest.raises(SystemExit, match="config.train_clip: no such field. Nearest: config.train"):
        parse("--config.train_clip=3")


def test_any_field_of_model_and_protocol_may_be_given(parse):
    config = parse("rl_tiny", "--config.model.remat=full", "--config.model.lora.rank=4",
                   "--config.model.lora.targets=('q','v')", "--config.protocol.max_frames=12",
                   "--config.protocol.fps=2")
    assert config.model.to_dict() == {"remat": "full", "lora": {"rank": 4, "targets": ("q", "v")}}
    assert config.protocol.to_dict() == {"max_frames": 12, "fps": 2.0}
    assert config.is_locked and config.model.is_locked
    model = preset("tiny").changed(**config.model.to_dict())
    assert model.remat == "full" and model.lora == LoraConfig(4, targets=("q", "v"))
    assert model.decoder == preset("tiny").decoder
    for flag in ("--config.model.remta=full", "--config.protocol.framess=3"):
        with pytest.raises(SystemExit, match=r"no such field\. Nearest: config\.(model|proto)"):
            parse("rl_tiny", flag)
    with pytest.raises(InputError, match="unknown fields .'bogus'."):
        preset("tiny").changed(bogus=1)
    with pytest.raises(InputError, match="config.model.lora: unknown fields .'bogus'."):
        preset("tiny").changed(lora={"rank": 2, "bogus": 1})


def test_an_entry_point_may_open_its_own_sections(parse):
    given = ("--config.dift.nce_weight=0.5", "--config.dift.nce_whole=false",
             "--config.dift.read_targets_steps=30", "--config.protocol.reader=blind")
    config = parse("dift_tiny", *given, sections={"dift": DiftSpec})
    before = load("dift_tiny").dift.to_dict()
    assert config.dift.to_dict() == {**before, "nce_weight": 0.5, "nce_whole": False,
                                     "read_targets_steps": 30}
    assert config.protocol.reader == "blind" and config.dift.is_locked
    with pytest.raises(SystemExit, match="no such field. Nearest: config.dift.nce_weight"):
        parse("dift_tiny", "--config.dift.nce_wait=1", sections={"dift": DiftSpec})


@pytest.mark.parametrize("name", NAMES)
def test_unknown_fields_of_a_section_are_named(name):
    config = load(name)
    for section, cls in SECTIONS.items():
        if isinstance(config.get(section), ConfigDict):
            with config[section].unlocked():
                config[section].bogus = 1
            with pytest.raises(InputError, match=rf"config.{section}: unknown fields \['bogus'\]"):
                frozen(cls, config[section], section)


def test_values_come_from_the_command_line(parse):
    config = parse("eval_heldout", "--config.eval.rows=3", "--config.checkpoint=here")
    assert (config.eval.rows, config.checkpoint) == (3, "here")
    with pytest.raises(SystemExit, match="rows=many"):
        parse("eval_heldout", "--config.eval.rows=many")


@pytest.mark.parametrize("name", NAMES)
def test_every_config_opens_from_any_working_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(ROOT))])
    for module in [m for m in sys.modules if m.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, module)
    values = flags.FlagValues()
    flag = define(values)
    command = ["x", f"--config={ROOT / 'configs' / name}.py"]
    monkeypatch.setattr(sys, "argv", command)
    read_flags(command, values)
    assert flag.value.workdir if "workdir" in flag.value else flag.value
    assert str(ROOT) not in sys.path


def test_a_copied_folder_of_configs_builds_on_its_own(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    base = tmp_path / "configs" / "rl_3b.py"
    base.write_text(base.read_text().replace("config.prompts = 64", "config.prompts = 7"))
    done = subprocess.run(
        [sys.executable, "-c", "from absl import flags; from fourd4d.config import flags as own\n"
         "import sys; sys.argv = ['x']; values = flags.FlagValues(); flag = own.define(values)\n"
         f"own.read_flags(['x', '--config={tmp_path}/configs/rl_7b.py'], values)\n"
         "print(flag.value.prompts, flag.value.workdir)"],
        capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["7", "runs/rl_7b"], done.stderr


def test_a_command_without_a_config_says_which_to_give():
    with pytest.raises(SystemExit, match="fourd4d.rl: no config is given.*configs/rl_tiny.py"):
        values = flags.FlagValues()
        define(values)
        read_flags(["x"], values, module="fourd4d.rl")
    assert configs_of("fourd4d.eval") == [
        "configs/eval_heldout.py", "configs/eval_tiny.py"]


def test_a_section_within_a_section_builds_the_spec_within():
    spec = frozen(AnnotateSpec, {"fps": 4.0, "features": {
        "max_simple_error": 1.5, "adjustment": {"step_spread": 0.2}}}, "digest")
    assert spec.fps == 4.0 and spec.features.max_simple_error == 1.5
    assert spec.features.adjustment.step_spread == 0.2
    assert spec.features.min_support == AnnotateSpec().features.min_support
    with pytest.raises(InputError, match=r"config\.digest\.features: unknown fields \['bogus'\]"):
        frozen(AnnotateSpec, {"features": {"bogus": 1}}, "digest")
