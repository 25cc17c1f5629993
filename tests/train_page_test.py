"""The page of training runs: what it shows, and what it will not show alone."""

import json
import re

import numpy as np
import pytest
from helpers.data import PROTOCOL, processor, sample, write_dataset

from fourd4d import train_page
from fourd4d.core.errors import InputError
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.pages import Series
from fourd4d.train_page import main, page_of, read_runs, thinned

FULL = {"loss": 2.0, "cosine": 0.8, "constant_cosine": 0.7, "centred_cosine": 0.3, "retrieval": 0.5,
        "norm_ratio": 0.9, "tokens_per_second": 1e3, "held_out/text_loss": 1.5, "odd": 7.0}


def write_run(folder, *rows):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def captions(html):
    return re.findall(r"<figcaption>([^<]*)</figcaption>", html)


def test_runs_lie_over_each_other_with_names_that_tell_them_apart(tmp_path):
    one = write_run(tmp_path / "a" / "run", {"step": 1, **FULL}, {"step": 2, **FULL})
    two = write_run(tmp_path / "b" / "run", {"step": 9, **FULL})
    html = page_of(read_runs([one, f"{two}/metrics.jsonl"])).html()
    assert "a/run" in html and "b/run" in html
    loss = next(svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "a/run" in svg)
    assert loss.count("<polyline") == 2 and 's0"' in loss and 's1"' in loss
    found = captions(html)
    assert any(text.startswith("held out: text cross-entropy") for text in found)
    assert "odd" in found and "tokens a second" in found


def test_a_cosine_never_stands_alone(tmp_path):
    for lacking in ("constant_cosine", "centred_cosine", "retrieval"):
        row = {name: value for name, value in FULL.items() if name != lacking}
        run = write_run(tmp_path / lacking, {"step": 1, **row})
        html = page_of(read_runs([run])).html()
        assert not any(text.startswith("cosine with") for text in captions(html)), lacking
        assert f"The cosine of {lacking} is left out" in html
    whole = page_of(read_runs([write_run(tmp_path / "full", {"step": 1, **FULL})])).html()
    assert any(text.startswith("cosine with the target") for text in captions(whole))
    assert "line dashed s0" in whole and "is left out" not in whole


def test_responses_stand_with_their_frames_and_heat_maps(tmp_path, monkeypatch):
    data = write_dataset(tmp_path, [sample(i, frames=2) for i in range(3)])
    response = ("<think>Then<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|> so.</think>"
                "<answer>B. Right</answer>")
    run = write_run(tmp_path / "rl", {"step": 1, "reward": 0.5}, {
        "step": 4, "sample": sample(1).id, "response": response, "response_reward": "1.2"})
    specs = {"config": {"data": {"path": str(data), "root": "", "assumed_fps": 0.0}}}
    processor().save(tmp_path / "rl" / "checkpoints" / "processor")
    monkeypatch.setattr(train_page, "read_specs", lambda folder: specs)
    (found,) = read_runs([run])
    html = page_of([found]).html()
    assert "Which way, 1?" in html and "update 4" in html and "reward 1.2" in html
    assert 'data-verdict="right"' in html and "mental image 1" in html
    assert "latents imagined here" not in html and html.count('<img alt="frame') == 2
    MapStore(found.folder / "maps").save("4", [np.random.default_rng(0).random((2, 2, 1, 2, 2))])
    assert "2 latents imagined here" in page_of([found]).html()
    assert PROTOCOL.latent_size == 2

    data.unlink()
    without = page_of([found]).html()
    assert "Without questions and frames" in without and "no such file" in without
    assert "so." in without and "update 4" in without


def test_a_long_curve_keeps_its_ends_and_its_spikes():
    y = np.sin(np.arange(10_000) / 500)
    y[4321], y[7777] = 50, -50
    short = thinned(Series("a", np.arange(10_000), y))
    assert len(short.x) <= 601 and short.x[-1] == 9999
    assert {4321, 7777} <= set(short.x) and list(short.x) == sorted(short.x)
    assert max(short.y) == 50 and min(short.y) == -50


def test_the_command_writes_beside_the_run_and_tells_bad_input(tmp_path, capsys):
    run = write_run(tmp_path / "r", {"step": 1, **FULL})
    assert main([run]) == 0
    assert (tmp_path / "r" / "train.html").read_text().startswith("<!doctype html>")
    assert "r at 1" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for words, told in (([str(tmp_path / "empty")], "no metrics.jsonl here"),
                        ([run, run], "the same run twice")):
        assert main(words) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "r" / "metrics.jsonl").write_text("[1]\n{}\n")
    with pytest.raises(InputError, match="metrics.jsonl:1: no object with a whole number"):
        read_runs([run])
