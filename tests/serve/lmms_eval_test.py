"""lmms-eval's own OpenAI model asks the server: videos by file, texts those of ``answer``."""

import json
import subprocess
import sys

import pytest
from helpers.serving import clip, running
from helpers.videos import write

pytestmark = [pytest.mark.slow]
pytest.importorskip("lmms_eval", reason="lmms-eval is not in this environment")
QUESTIONS = ["Which way?", "Where does it go?", "How far from the camera is the cube?"]
TASK = """\
task: clips
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function clips_utils.visual
doc_to_text: !function clips_utils.text
doc_to_messages: !function clips_utils.messages
doc_to_target: said
generation_kwargs: {{max_new_tokens: 48, temperature: 0}}
process_results: !function clips_utils.score
metric_list: [{{metric: same, aggregation: mean, higher_is_better: true}}]
"""
FUNCTIONS = """\
def visual(doc):
    return [doc["video"]]


def text(doc, **_):
    return doc["question"]


def messages(doc, **_):
    return [{"role": "user", "content": [{"type": "video", "url": doc["video"]},
                                         {"type": "text", "text": doc["question"]}]}]


def score(doc, results):
    return {"same": float(results[0].strip() == doc["said"].strip())}
"""


def test_its_openai_model_gets_the_answers_of_answer(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    with running(root) as server:
        rows = []
        for number, question in enumerate(QUESTIONS * 2):
            video = write(root / f"{number}.mp4", list(clip(number, frames=6).frames), fps=2)
            said = server.thinker.answer(video, question, max_tokens=48).text
            rows.append({"video": str(video), "question": question, "said": said})
        assert len({row["said"] for row in rows}) > 2
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = tmp_path / "task"
        task.mkdir()
        (task / "clips.yaml").write_text(TASK.format(rows=data))
        (task / "clips_utils.py").write_text(FUNCTIONS)
        subprocess.run(
            [sys.executable, "-m", "lmms_eval", "--model", "openai", "--tasks", "clips",
             "--include_path", str(task), "--batch_size", "1", "--log_samples",
             "--output_path", str(tmp_path / "out"), "--model_args",
             f"model=eye,base_url={server.url},api_key=none,pass_video_url=True,max_retries=1,"
             "max_frames_num=8"], check=True, timeout=500)
    (result,) = (tmp_path / "out").rglob("*results.json")
    scores = json.loads(result.read_text())["results"]["clips"]
    assert scores["same,none"] == 1.0, scores
