"""Pictures for notebooks: what they show, and what they refuse."""

import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from helpers.data import PROTOCOL, sample, write_dataset

from fourd4d.api import Answer
from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.core.rollout import Rollout
from fourd4d.core.sample import Sample
from fourd4d.pages import Curves, Series, read_curves
from fourd4d.synth.clip import Clip, Track

pytest.importorskip("matplotlib")

from fourd4d import plot

EVIL = "<script>alert(1)</script>"


def answer(**changes):
    rng = np.random.default_rng(0)
    fields = dict(
        text="<think>So<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>.</think>"
             f"<answer>y. {EVIL}</answer>",
        letter="y", latents=np.zeros((2, 4), np.float32), truncated=False, question=EVIL,
        options={"x": "Left", "y": EVIL}, timestamps=(0.0, 0.5), slot_frames=(0,),
        frames=rng.integers(0, 256, (2, 32, 40, 3)).astype(np.uint8),
        maps=(rng.random((2, 2, 1, 2, 3)).astype(np.float32),))
    return Answer(**(fields | changes))


def pixels(figure):
    out = io.BytesIO()
    figure.savefig(out)
    return np.asarray(PIL.Image.open(out))


def test_an_answer_shows_itself_with_its_mental_images():
    html = answer()._repr_html_()
    assert EVIL not in html and "2 latents imagined here" in html
    assert '<li class="chosen"><b>B</b>' in html and "data-verdict=\"\"" in html
    assert "<script" not in html and html.startswith('<div class="fourd4d"><style>.fourd4d {')
    assert "mental image 1" in answer(maps=(), frames=None, timestamps=())._repr_html_()


def test_heat_maps_draw_a_row_an_image_and_a_panel_a_latent():
    maps = answer().maps[0]
    figure = plot.heat_maps(answer(maps=(maps, maps[:, :1])))
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 6 and titles[0].startswith("image 1, 0.00 s")
    assert [title.partition("\n")[0] for title in titles[4:]] == ["latent 1", ""]
    own = maps[1].mean(0)
    assert titles[0].endswith(f"{own.min():+.2f} … {own.max():+.2f}")
    plain = plot.heat_maps(answer(), centred=False).axes[0].get_title()
    assert plain.endswith(f"{maps[0].mean(0).min():+.2f} … {maps[0].mean(0).max():+.2f}")
    assert pixels(figure).std() > 10 and callable(figure._repr_png_)
    with pytest.raises(InputError, match="maps=True"):
        plot.heat_maps(answer(maps=()))


def test_tracks_lie_in_the_middle_of_the_boxes():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [np.nan] * 4, [0.5, 0.5, 1.0, 1.0]])
    clip = Clip("c", np.zeros((3, 20, 40, 3), np.uint8), np.arange(3.0), (
        Track("red cube", "dynamic", boxes, np.zeros((3, 20, 40), bool)),))
    line = plot.tracks(clip).axes[1].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [9.5, 29.5])
    np.testing.assert_allclose(line.get_ydata(), [4.5, 14.5])


def test_a_sample_is_drawn_with_its_overlays(tmp_path):
    one = sample(0, frames=3)
    write_dataset(tmp_path, [one])
    figure = plot.sample(one, tmp_path, PROTOCOL)
    assert sum(bool(axis.images) for axis in figure.axes) == 5
    assert len(plot.frames(np.zeros((20, 4, 4, 3), np.uint8)).axes) == 8


def test_a_cosine_is_drawn_with_the_constants(tmp_path):
    one = {name: Series(name, (1, 2), (0.5, 0.6)) for name in ("cosine", "constant_cosine")}
    figure = plot.curves(one, "cosine")
    assert len(figure.axes[0].lines) == 2
    with pytest.raises(InputError, match="none of loss is there. Known: constant_cosine, cosine"):
        plot.curves(one, "loss")
    with pytest.raises(InputError, match="no such file"):
        plot.curves(tmp_path)


def test_watching_ends_with_the_process_and_tells_its_failure(tmp_path):
    pytest.importorskip("IPython")
    write = ("import json, pathlib, sys; p = pathlib.Path(sys.argv[1]); "
             "p.joinpath('metrics.jsonl').write_text(json.dumps({'step': 1, 'loss': 2.0})); ")

    def run(code):
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])

    with pytest.raises(InputError, match="left no metrics"):
        plot.watch(run("pass"), tmp_path, every=0.01)
    plot.watch(run(write), tmp_path, every=0.01)
    with pytest.raises(InputError, match=r"failed \(exit 3\)"):
        plot.watch(run(write + "sys.exit(3)"), tmp_path, every=0.01)


def test_other_things_show_themselves(tmp_path):
    import jax

    html = Rollout.fake(3, 9, 4, 8)._repr_html_()
    assert html.count("<tr>") == 4 and "cut off" in html
    assert "of shapes" in Rollout.spec(3, 9, 4, 8)._repr_html_()
    seen = []
    jax.jit(lambda r: seen.append(r._repr_html_()))(Rollout.fake(3, 9, 4, 8))
    assert "of shapes" in seen[0]
    assert "Which way does the red cube move?" in Sample.fake()._repr_html_()
    assert EVIL not in Sample("a", EVIL, kind=EVIL)._repr_html_()
    assert "0.5" in Mean.of(np.array([0.0, 1.0]))._repr_html_()
    (tmp_path / "m.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    found = read_curves(tmp_path / "m.jsonl")
    assert isinstance(found, Curves) and "<svg" in found._repr_html_()
