"""Other kits' own scorers, from clones of them, on the files that are written for them.

    FOURD4D_VLMEVALKIT=CLONE FOURD4D_VLM4D=CLONE pytest -m slow tests/eval/benchmarks/kits_test.py

They need pandas, num2words, openpyxl, validators, sty, huggingface_hub (``FOURD4D_KITS_PYTHON``).
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fourd4d.eval.benchmarks import TABLE, kits

PYTHON = os.environ.get("FOURD4D_KITS_PYTHON", sys.executable)
# VLM4D's columns.
COLUMNS = {"overall": "Overall", "real": "Real Overall", "synthetic": "Synthetic Overall",
           "real_ego": "Real Ego-centric", "real_exo": "Real Exo-centric",
           "synthetic_directional": "Synthetic Directional",
           "synthetic_false_positive": "Synthetic FP"}
# What ``evaluate`` of VLMEvalKit needs of its package, without the models and judges that the
# package imports.
SCORE = r"""
import contextlib, importlib, io, json, sys, types

kit, module, name, *files = sys.argv[1:]
for package in ("vlmeval", "vlmeval.smp", "vlmeval.utils", "vlmeval.dataset",
                "vlmeval.dataset.utils"):
    sys.modules[package] = made = types.ModuleType(package)
    made.__path__ = [f"{kit}/{package.replace('.', '/')}"]
for package, names in (("decord", ()), ("vlmeval.dataset.video_base", ("VideoBaseDataset",)),
                       ("vlmeval.dataset.utils.judge_util", ("build_judge",))):
    sys.modules[package] = made = types.ModuleType(package)
    for one in names:
        setattr(made, one, object)
smp, file = sys.modules["vlmeval.smp"], importlib.import_module("vlmeval.smp.file")
vars(smp).update({name: value for name, value in vars(file).items() if name[:1] != "_"})
smp.get_cache_path = smp.modelscope_flag_set = None
benchmark = getattr(importlib.import_module(f"vlmeval.dataset.{module}"), name)
with contextlib.redirect_stdout(io.StringIO()):
    found = [object.__new__(benchmark).evaluate(file) for file in files]
print(json.dumps([{k: v for k, v in one.items() if not k.startswith("tab")} for one in found]))
"""


def clone(name):
    folder = os.environ.get(name, "")
    if not folder:
        pytest.skip(f"{name} names no clone")
    return Path(folder)


def ran(*command, **options):
    told = subprocess.run([PYTHON, *map(str, command)], capture_output=True, text=True, **options)
    assert told.returncode == 0, told.stderr[-3000:]
    return told.stdout


def response(question, rng):
    """Something that a model may say."""
    letter = rng.choice("ABCDEF"[: max(len(question.options), 1)])
    text = (*question.options, "so")[0]
    right = (*question.answers, "A")[0]
    return rng.choice((
        letter, f"{letter}. {text}", "", "None", "NA", "I see a bus", f'"quoted"\t{letter}',
        f"<think>It moves left\nand A or B</think>\n<answer>{letter}. {text}</answer>",
        f"The answer is ({letter}).", "Based on all, camera moves left", "<answer>moves</answer>",
        f"Therefore, the final answer is: {letter}", f"line\r\nbreak {letter}", right,
        f"<answer>{right}</answer>"))


def answered(name, protocol, split, root, rng):
    """A source, its items, and the record of a response to each."""
    rows = TABLE[name].open(root, protocol, split)
    records = {}
    for number, question in enumerate(rows.questions):
        said = response(question, rng)
        records[question.key] = {"response": said, **rows.score(number, said)} if (
            not question.problem) else {"response": "", "lenient": None, "lenient_correct": False,
                                        **rows.about(number)}
    return rows, rows.items(), records


@pytest.mark.slow
@pytest.mark.parametrize("name, module, kit", [
    ("dsr_bench", "dsrbench", "DSRBench"), ("sti_bench", "stibench", "STIBench")])
def test_vlmevalkit_scores_our_files_as_its_reading_here_does(tmp_path, name, module, kit):
    folder, rng = clone("FOURD4D_VLMEVALKIT"), random.Random(0)
    root = TABLE[name].fake(tmp_path / "root")
    files, want = [], []
    for turn in range(20):
        rows, items, records = answered(name, "kit", ("parquet", "tsv")[turn % 2], root, rng)
        files += kits.write(rows, items, records, tmp_path / str(turn), "m")
        own = {item.key: records[item.key]["own_score"] for item in items}
        want.append(rows.benchmark.aggregate(rows.questions, own))
    (tmp_path / "score.py").write_text(SCORE)
    found = json.loads(ran(tmp_path / "score.py", folder, module, kit, *files))
    assert len({one["overall"] for one in found}) > 2
    for theirs, ours in zip(found, want, strict=True):
        for metric, share in ours.items():
            there = theirs[metric if metric == "overall" else f"{metric}_accuracy"]
            assert there == pytest.approx(100 * share)


@pytest.mark.slow
@pytest.mark.parametrize("protocol, place", [("kit", "cot"), ("kit_direct", "direct-output")])
def test_vlm4d_makes_our_table_of_our_files(tmp_path, protocol, place):
    script = (clone("FOURD4D_VLM4D") / "acc_final_statistics.py").read_text()
    root, overall = TABLE["vlm4d"].fake(tmp_path / "root"), set()
    for turn in range(5):
        rows, items, records = answered("vlm4d", protocol, "all", root, random.Random(turn))
        out = tmp_path / str(turn)
        kits.write(rows, items, records, out, "m")
        (out / "score.py").write_text(script.replace('mc_cot"', f'mc_{place}"'))
        ran("score.py", cwd=out)
        (table,) = (out / "csv_final_results").glob("*.csv")
        names, values = (line.split(",") for line in table.read_text().splitlines())
        found = dict(zip(names[1:], map(float, values[1:]), strict=True))
        ours = rows.benchmark.aggregate(rows.questions, {
            item.key: float(records[item.key]["lenient_correct"]) for item in items})
        for metric, share in ours.items():
            assert found[f"{COLUMNS[metric]} Accuracy (%)"] == pytest.approx(
                100 * share, abs=0.0051), metric
        overall.add(found["Overall Accuracy (%)"])
    assert len(overall) > 1
