"""The page: escaped, self-contained, and true to its numbers."""

import json
import re

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.pages import (
    Bar,
    Bars,
    Card,
    Interval,
    Lines,
    MentalImage,
    Number,
    Page,
    Paths,
    Series,
    read_curves,
)
from fourd4d.pages.pictures import colour, data_uri, paint

EVIL = "<script>alert(1)</script> & \"quotes\" 'single'"


def card(**changes):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 20, 28, 3), np.uint8)
    image = MentalImage(rng.random((2, 2, 2, 3, 4)), frames[0], 0.5)
    fields = dict(
        key="k", kind="speed", question="Which?", options=("Left", "Right"), answer="A",
        response="<think>So <output_image> then <output_image>.</think><answer>B. Right</answer>",
        chosen="B", frames=frames, timestamps=(0.0, 0.5, 1.0, 1.5),
        slot_frames=(0, 2), images=(image,))
    return Card(**(fields | changes))


def full_page(text="text"):
    page = Page(text, lead=text)
    page.add_numbers([Number(text, text, text)]).add_text(text, text)
    page.add_chart(text, Bars([Bar(text, 0.5, 0.4, 0.6)], (text, 0.25)), text)
    page.add_charts(text, [(text, Lines([Series(text, [1, 2], [3, 4])], text, text, (text, 3)))])
    page.add_table(text, [text, "share"], [[text, Interval(0.5, 0.4, 0.6, 0.25)]], text)
    page.add_pictures(text, [(text, np.zeros((4, 4, 3), np.uint8))], text)
    odd = card(key=text, kind=text, question=text, options=(text, "Right"), facts=(text,),
               response=f"{text}<think>{text}<output_image>{text}</think><answer>{text}</answer>")
    return page.add_cards(text, [odd, card()], text)


def test_every_text_is_escaped():
    html = full_page(EVIL).html()
    assert html.count("<script") == 1 and "alert(1)</script>" not in html
    assert html.count("alert(1)") == full_page("PLAIN").html().count("PLAIN")
    assert not re.search(r'="[^"]*<script', html)


def test_nothing_is_fetched():
    html = full_page().html()
    for address in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', html):
        assert address.startswith("data:image/"), address
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")


def test_key_and_choice_are_marked():
    html = card().html()
    assert 'data-verdict="wrong" data-kind="speed"' in html
    assert '<li class="key"><b>A</b> Left<i>key</i></li>' in html
    assert '<li class="chosen"><b>B</b> Right<i>chosen</i></li>' in html
    right = card(chosen="A").html()
    assert 'data-verdict="right"' in right and '<li class="key chosen"><b>A</b> Left' in right
    assert 'data-verdict="none"' in card(chosen="").html()


def test_mental_images_stand_where_they_were_imagined():
    html = card().html()
    first, second = html.index("<b>mental image 1"), html.index("<b>mental image 2")
    assert html.index("<p>So</p>") < first < html.index("<p>then</p>") < second
    assert second < html.index("<p>.</p>") < html.index('<p class="answer">B. Right</p>')
    assert html.count(">taught here: the frame at 0.50 s, ") == 1  # The second has none.
    assert html.count(">latent 2<") == 1 and html.count("mental image") == 2


def test_a_heat_map_tells_its_frame_its_scale_and_what_bright_means():
    maps = np.zeros((2, 2, 2, 3, 4))
    maps[0, :, 0, 1, 1], maps[0, :, 1] = 0.75, 0.5  # Plain: highest in the first slot,
    maps[1, :, 1, 2, 3], maps[1, 0, 0] = 0.25, -0.5  # centred: in the second, at frame 2.
    made = card(images=[MentalImage(maps)])
    html = made.html()
    for mean, slot, low, high in ((maps[0], 0, 0.0, 0.75), (maps[1], 1, -0.25, 0.25)):
        painted = paint(made.frames[made.slot_frames[slot]], mean.mean(0)[slot], low, high)
        assert data_uri(painted, 176) in html
    assert "2 latents imagined here; bright where the video&#x27;s own features are most" in html
    assert "(3 × 4 places a frame, drawn smooth)" in html
    assert ">cosine; the frame at 0.00 s, where it is highest<" in html
    assert ">cosine once the video&#x27;s mean is taken away; the frame at 1.00 s, where" in html
    scales = re.findall(r'class="scale"><span>([^<]+)</span><img [^>]+><span>([^<]+)<', html)
    assert scales == [("+0.00", "+0.75"), ("-0.25", "+0.25"), ("+0.00", "+0.25"),
                      ("-0.25", "+0.25")]
    assert "each latent alone, the frame at 1.00 s" in html and 'class="tile best"' in html


def test_a_card_of_a_dataset_has_no_verdict():
    html = card(chosen=None, charts=[("way", Paths([[(0, 0), (1, 1)]], [1]))]).html()
    assert 'data-verdict=""' in html and "chip right" not in html and "chosen" not in html
    assert ">way</figcaption>" in html and 'class="line s1"' in html
    bar = Page("t").add_cards("x", [card(chosen=None)]).html()
    assert "all 1<" in bar and "no answer" not in bar


def test_ways_keep_their_shape_and_begin_at_the_dot():
    svg = Paths([[(0.0, 0.0), (1.0, 0.5)]], [2]).svg(120)
    assert 'points="10.0,10.0 110.0,60.0"' in svg and 'cx="10.0" cy="10.0"' in svg
    free = Paths([[(2.0, 7.0), (4.0, 7.0)]], [0], unit=False).svg(120)
    assert 'points="10.0,60.0 110.0,60.0"' in free
    assert "nan" not in Paths([[], [(1, 1)]], [0, 1], unit=False).svg(120)


def test_a_response_cut_anywhere_still_makes_a_card():
    whole = card().response
    for end in range(len(whole)):
        assert card(response=whole[:end]).html().endswith("</article>")


def test_long_videos_show_a_bounded_strip():
    frames = np.zeros((50, 8, 8, 3), np.uint8)
    html = card(frames=frames, timestamps=np.arange(50) / 2, images=(), response="").html()
    assert html.count("<img") == 16 and "16 of 50 frames" in html
    assert "0.00 s" in html and "24.50 s" in html


def test_the_heat_map_is_dark_at_its_low_and_bright_at_its_high_end():
    frame = np.full((32, 32, 3), 128, np.uint8)
    cosines = np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)
    painted = paint(frame, cosines, 0.0, 1.0, width=64).astype(int)
    assert painted.shape == (64, 64, 3)
    assert painted[-1, -1].sum() > painted[0, 0].sum() + 200
    np.testing.assert_array_equal(colour(np.array([0.0, 1.0])), [[0, 0, 4], [252, 255, 164]])


def test_bars_are_as_long_as_their_values():
    for label in ("a", "the longest of many words"):
        svg = Bars([Bar(label, 0.5), Bar("b", 1.0), Bar("c", 0)]).svg(640)
        widths = [float(w) for w in re.findall(r'<rect class="fill s\d" [^>]*width="([\d.]+)"',
                                               svg)]
        assert widths == pytest.approx([widths[1] / 2, widths[1], 0], abs=0.1) and widths[1] > 250


def test_lines_leave_out_what_is_not_finite_and_survive_few_points():
    svg = Lines([Series("a", [1, 2, 3], [1.0, float("nan"), 3.0])]).svg()
    (points,) = re.findall(r'points="([^"]+)"', svg)
    assert len(points.split()) == 2
    for xs, ys in (([], []), ([1], [2.0]), ([1, 2], [5, 5])):
        assert "nan" not in Lines([Series("a", xs, ys)], smooth=5).svg()


def test_a_table_needs_full_rows():
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        Page("t").add_table("x", ["a", "b"], [["only"]])


def test_curves_come_from_metrics_files(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "note": "x"},
            {"step": 2, "loss": 2.0, "lr": float("nan")}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 3, "lo')
    curves = read_curves(path)
    assert list(curves) == ["loss"]
    assert (curves["loss"].x, curves["loss"].y) == ((1, 2), (3.0, 2.0))
    assert read_curves(path, "other") == {}
    path.write_text("oops\n{}\n")
    with pytest.raises(InputError, match="metrics.jsonl:1: malformed JSON"):
        read_curves(path)
    with pytest.raises(InputError, match="no such file"):
        read_curves(tmp_path / "none.jsonl")


def test_a_page_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "deep" / "page.html"
    full_page("old").write(path)
    full_page("new").write(path)
    assert "<title>new</title>" in path.read_text() and len(list(path.parent.iterdir())) == 1
