"""lmms-eval's own command on a local task, offline, with a shipped checkpoint behind it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourd4d.eval.benchmarks import fakes

ROOT = Path(__file__).parents[2]
TASK = """
task: moving_square
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/items.json}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.results
generation_kwargs: {max_new_tokens: 16, temperature: 0, do_sample: false, until: ["\\n\\n"]}
metric_list: [{metric: right, aggregation: mean, higher_is_better: true},
              {metric: said, aggregation: mean, higher_is_better: true}]
metadata: {version: 0}
"""
UTILS = """
def visual(doc):
    return [doc["video"]]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"] + "\\n\\n" + doc["options"]

def results(doc, results):
    said = results[0].strip()
    return {"right": float(said[:1] == doc["answer"]), "said": float(bool(said))}
"""


@pytest.mark.slow
def test_a_local_task_runs_through_lmms_eval(tmp_path):
    python = os.environ.get("FOURD4D_LMMS_PYTHON", "")  # One made before, to save ten minutes.
    if not python:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        python = str(tmp_path / "venv" / "bin" / "python")
        for wanted in (["lmms-eval==0.7.3", "filelock<4"], [ROOT, "sentencepiece<0.2.2"]):
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    task = tmp_path / "task"
    task.mkdir()
    rows = []
    for number in range(4):  # Two questions a video; the third video is missing.
        video = task / f"{number // 2}.mp4" if number < 3 else task / "gone.mp4"
        if number < 3:
            fakes.video(video, number // 2)
        rows.append(dict(video=str(video), question=f"Which way does part {number} move?",
                         options="A. Left\nB. Right\nC. <image>\nD. <|latent_start|>", answer="B"))
    (task / "items.json").write_text(json.dumps(rows))
    (task / "moving_square.yaml").write_text(TASK.replace("FOLDER", str(task)))
    (task / "utils.py").write_text(UTILS)
    told = subprocess.run(
        [python, "-m", "lmms_eval", "--model", "fourd4d", "--model_args",
         "checkpoint=tiny-imagery,max_tokens=224,max_latents=36", "--tasks", "moving_square",
         "--include_path", str(task), "--batch_size", "4", "--log_samples",
         "--output_path", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": "",
             "HF_HOME": str(tmp_path / "hf"), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr[-3000:]
    # It exits with 0 whatever went wrong.
    results = list((tmp_path / "out").rglob("*_results.json"))
    assert len(results) == 1, told.stderr[-3000:]
    found = json.loads(results[0].read_text())["results"]["moving_square"]
    (samples,) = (tmp_path / "out").rglob("*_samples_moving_square.jsonl")
    said = [json.loads(line) for line in samples.read_text().splitlines()]
    answers = [one["filtered_resps"] for one in sorted(said, key=lambda one: one["doc_id"])]
    answers = [one[0] if isinstance(one, list) else one for one in answers]
    assert len(answers) == 4 and all(answers[:3]) and answers[3] == ""
    assert all(answer[:1] in "ABCD" for answer in answers[:3]), answers  # Not "<think>".
    assert found["said,none"] == 0.75
    assert "gone.mp4" in told.stderr and "1 of 4 requests could not be answered" in told.stderr
