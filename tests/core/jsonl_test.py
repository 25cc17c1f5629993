"""Samples, their rows in JSONL files, and binary records."""

import dataclasses
import json

import pytest
from helpers import data as helpers

from fourd4d.core import jsonl, records
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample, check


def write_lines(path, *lines):
    path.write_text("\n".join(
        line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


ROW = jsonl.dift_row(Sample.fake())
RL = jsonl.rl_row(Sample.fake())


def test_dift_rows_come_back_whole(tmp_path):
    samples = [Sample.fake(i) for i in range(3)]
    assert jsonl.write(tmp_path / "a" / "d.jsonl", map(jsonl.dift_row, samples)) == 3
    assert list(jsonl.read(tmp_path / "a" / "d.jsonl")) == samples
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["d.jsonl"]


def test_rl_rows_come_back_without_the_response(tmp_path):
    frames = dataclasses.replace(Sample.fake(), response="", overlays=(), overlay_timestamps=())
    video = dataclasses.replace(frames, id="v", frames=(), timestamps=(), video="a/v.mp4")
    jsonl.write(tmp_path / "r.jsonl", map(jsonl.rl_row, [frames, video]))
    assert list(jsonl.read(tmp_path / "r.jsonl")) == [frames, video]


def test_published_rows_are_read(tmp_path):
    """Rows exactly as others write them, without our extra keys."""
    path = write_lines(
        tmp_path / "x.jsonl",
        {"id": "v1_10->20", "text_input": "How does the camera move?\n\nA. Pan Left\nB. Pan Right",
         "text_output": "<think>See <output_image> and <output_image>.</think>\n"
                        "<answer>B. Pan Right</answer>",
         "image_input": ["p/v1/frames/frame_0000.jpg"], "image_output": ["o/0.jpg", "o/1.jpg"]},
        {"video_path": "videos/v2.mp4", "Question": "Where to?", "A": "Left", "B": "Right",
         "C": "Up", "D": "Down", "Correct": "C"},
        {"frame_paths": ["p/v3/frames/frame_0000.jpg"], "Question": "Faster?", "A": "Yes",
         "B": "No", "Correct": "A"})
    camera, video, frames = jsonl.read(path)
    assert camera.question == "How does the camera move?" and camera.answer_text == "Pan Right"
    assert camera.text_input.endswith("?\n\nA. Pan Left\nB. Pan Right") and not camera.timestamps
    assert video.video == "videos/v2.mp4" and video.answer_text == "Up" and "v2" in video.id
    assert frames.options == ("Yes", "No") and frames.frames


TEN = [f"option {n}" for n in range(10)]


@pytest.mark.parametrize("change, options, answer", [
    (dict(zip("ABCDEFGHIJ", TEN)) | {"Correct": "J"}, tuple(TEN), "J"),
    ({"D": ""}, ("Left", "Right", "Up"), "A"), ({"D": None, "C": "  "}, ("Left", "Right"), "A"),
    ({"Correct": "b"}, None, "B"), ({"Correct": " (C) "}, None, "C"),
    ({"Correct": "D."}, None, "D"),
    ({"Correct": "B. Right"}, None, "B"), ({"Correct": "b) right."}, None, "B"),
    ({"Correct": "Up"}, None, "C"), ({"Correct": "up."}, None, "C"),
    ({"A": 1, "B": 2, "C": 2.5, "D": True, "Correct": 2.5}, ("1", "2", "2.5", "True"), "C"),
    ({"A": "B", "B": "A", "C": "D", "D": "C", "Correct": "A"}, ("B", "A", "D", "C"), "A"),
    ({"A": " Left ", "B": "to the\n right"}, ("Left", "to the right", "Up", "Down"), "A"),
    ({"A": "A. Left", "B": "(B) Right", "C": "C: Up", "D": "D) Down", "Correct": "B. Right"},
     None, "B"),
    ({"A": "A car", "B": "B side", "C": "C clef", "D": "D day"},
     ("A car", "B side", "C clef", "D day"), "A"),
    ({"B": "<b>Right</b> <image>"}, ("Left", "<b>Right</b> <image>", "Up", "Down"), "A"),
    ({"Correct": "Ｂ"}, None, "B"), ({"Correct": "（ｂ）"}, None, "B"),
    ({"Correct": "Ｂ．Right"}, None, "B"), ({"Correct": "B、Right"}, None, "B"),
    ({"A": "Ａ．Left", "B": "Ｂ．Right", "C": "Ｃ：Up", "D": "Ｄ）Down"}, None, "A"),
    ({"A": "Yes", "B": "No", "C": None, "D": None, "Correct": False}, ("Yes", "No"), "B"),
    ({"A": 1, "B": 2, "C": 3, "D": 4, "Correct": 2.0}, ("1", "2", "3", "4"), "B"),
    ({"A": "A. Left", "B": "B. Right", "C": "C. ", "D": "D."}, ("Left", "Right"), "A"),
    ({"A": "A.", "B": "B.", "C": "C.", "D": "D."}, ("A.", "B.", "C.", "D."), "A"),
])
def test_options_and_keys_as_benchmarks_give_them(change, options, answer):
    sample = jsonl.parse_row({**RL, **change}, "x:1")
    assert (sample.options, sample.answer) == (options or Sample.fake().options, answer)


@pytest.mark.parametrize("options", [
    ["Left", "Right"], ["A. Left", "B. Right"], {"A": "Left", "B": "Right"}, '["Left", "Right"]',
    {"b": "Right", "a": "Left"}, ["Left", "Right", None], {"Ａ": "Left", "Ｂ": "Right"},
    ["A. Left", "B. Right", "C. ", ""],
])
@pytest.mark.parametrize("key", ["options", "choices"])
def test_options_in_one_field(options, key):
    row = {"Question": "?", "frame_paths": ["a.png"], key: options, "Correct": "Right"}
    sample = jsonl.parse_row(row, "x:1")
    assert (sample.options, sample.answer) == (("Left", "Right"), "B")


def test_a_mark_without_a_text_counts_as_no_option():
    asked = {"Question": "?", "frame_paths": ["a.png"], "Correct": "A"}
    empty, marked = ["x", "", "z"], ["A. x", "B. ", "C. z"]
    for options in (empty, marked, marked + ["D."]):
        before = list(options)
        assert jsonl.option_count({**asked, "options": options}) == 2
        assert options == before
    with pytest.raises(InputError, match="option B|11 options|12 options"):
        jsonl.parse_row({**asked, "options": [f"{c}. x{c}" for c in "ABCDEFGHIJK"] + ["L."]}, "x:1")


def test_options_that_share_a_letter_and_odd_frames_are_told():
    asked = {"Question": "?", "frame_paths": ["a.png"], "Correct": "B"}
    with pytest.raises(InputError, match="two options have one letter: A, A, B"):
        jsonl.parse_row({**asked, "options": {"a": "x", "A": "y", "B": "z"}}, "x:1")
    with pytest.raises(InputError, match="option B is 1000"):
        jsonl.parse_row({**asked, "options": ["x", 10**400]}, "x:1")
    with pytest.raises(InputError, match="frame_paths"):
        jsonl.parse_row({**RL, "frame_paths": {"a": "b"}, "video_path": "", "id": None}, "x:1")


def test_rows_are_not_written_with_numbers_that_no_reader_takes(tmp_path):
    with pytest.raises(InputError, match=r"d\.jsonl:2: a row with NaN"):
        jsonl.write(tmp_path / "d.jsonl", [RL, {**RL, "provenance": {"a": float("nan")}}])
    assert not list(tmp_path.iterdir())


def test_scan_gives_the_place_of_every_row(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", ROW, "", {**ROW, "id": "ü"}, {**ROW, "id": "c"})
    raw = path.read_bytes()
    found = list(jsonl.scan(path))
    assert [line for _, line, _ in found] == [1, 3, 4]
    for offset, line, sample in found:
        assert jsonl.parse_line(raw[offset:].splitlines()[0], line) == sample


@pytest.mark.parametrize("line, message", [
    ('{"id": "a", ', "malformed JSON"),
    ("[1, 2]", "not a JSON object"),
    ({"id": "a"}, "neither 'text_input' nor 'Question'"),
    ({**ROW, "text_output": 3}, "'text_output' is int"),
    ({**ROW, "image_input": "a.png"}, "'image_input' is str"),
    ({**ROW, "image_input": [1]}, "'image_input' holds 1"),
    ({**ROW, "timestamps": [0.0, 0.5, "x", 2.0]}, "'timestamps' holds 'x'"),
    ({**ROW, "timestamps": [0.0, 0.5]}, "4 frames, 2 timestamps"),
    ({**ROW, "timestamps": [0.0, 0.5, 0.5, 2.0]}, "do not rise"),
    ({**ROW, "image_output": ROW["image_output"][:1], "image_output_timestamps": []},
     "2 <output_image> in the response, 1 overlays"),
    ({**ROW, "text_output": ROW["text_output"].replace("<output_image>", "", 1)},
     "1 <output_image> in the response, 2 overlays"),
    ({**ROW, "text_output": ROW["text_output"].replace("<answer>A. Left", "<answer>A. Right")},
     "the key is"),
    ({**ROW, "text_output": "<think> <output_image> <output_image></think>"}, "no <answer>"),
    ({**ROW, "text_output": ROW["text_output"].replace("At", "<|im_end|> At")}, "control token"),
    ({**ROW, "text_input": "Which way?\n\nA. Left\nC. Right"}, "lettered"),
    ({**ROW, "image_input": [], "timestamps": []}, "neither frames nor a video"),
    ({**RL, "Correct": "E"}, "is not an option's letter"),
    ({**RL, "B": RL["A"]}, "two options are the same"),
    ({**RL, "B": RL["A"], "Correct": RL["A"]}, "is the text of options A, B"),
    ({**RL, "B": ""}, "option B is ''"), ({**RL, "B": None}, "option B is None"),
    ({**RL, "B": " \u200b"}, "option B is"), ({**RL, "B": ["Up"]}, "option B is ['Up']"),
    ({**RL, **dict(zip("ABCDEFGHIJK", "abcdefghijk"))}, "11 options"),
    ({**RL, "B": None, "C": None, "D": None}, "1 options"),
    ({**RL, "Correct": ""}, "'Correct' is missing"), ({**RL, "Correct": 1}, "answer '1' is no"),
    ({**RL, "Correct": "B. Left"}, "is not an option's letter"),
    ({**RL, "Question": " "}, "the question is empty"),
    ({**RL, "B": "<|latent_start|>"}, "control token"),
    ({**RL, "timestamps": [0, 0.5, 1, 10**400]}, "number of 401 digits"),
    ({**ROW, "text_input": "Which way?\n\nA. Left\nB.\nC. Up\nD. Down"}, "option B is ''"),
    ({"Question": "?", "frame_paths": ["a.png"], "options": {"A": "x", "Z": "y"}, "Correct": "A"},
     "lettered ['Z']"),
    ({"Question": "?", "frame_paths": ["a.png"], "options": 3, "Correct": "A"}, "options are int"),
    ({"Question": "?", "frame_paths": ["a.png"], "Correct": "A"},
     "the key is 'A', but there are no options"),
    ({**RL, "A": "A. Left", "B": "B. ", "C": "C. Up", "D": "D. Down"},
     "option B without its letter is ''"),
])
def test_bad_rows_name_file_and_line(tmp_path, line, message):
    path = write_lines(tmp_path / "bad.jsonl", {**ROW, "id": "first"}, line)
    with pytest.raises(InputError) as error:
        list(jsonl.read(path))
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(jsonl.read(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match=r"twice.jsonl:2: id .* stands at line 1 too"):
        list(jsonl.read(write_lines(tmp_path / "twice.jsonl", ROW, ROW)))
    (tmp_path / "latin.jsonl").write_bytes('{"id": "ü"}'.encode("latin-1"))
    with pytest.raises(InputError, match="latin.jsonl:1: it is not UTF-8"):
        list(jsonl.read(tmp_path / "latin.jsonl"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", ROW)

    def rows():
        yield ROW
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        jsonl.write(path, rows())
    assert len(list(jsonl.read(path))) == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a/../../x.png", "../rooted/x.png"])
def test_paths_stay_below_the_root(tmp_path, path):
    with pytest.raises(InputError, match="leaves the data root"):
        jsonl.inside(tmp_path / "root", path, "row")


def test_links_out_of_the_root_are_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to("/etc")
    with pytest.raises(InputError, match="leaves the data root"):
        jsonl.inside(tmp_path / "root", "link/passwd", "row")


def test_records_keep_every_field(tmp_path):
    samples = [dataclasses.replace(helpers.sample(i), provenance={"a": [1, {"b": 2.5}]},
                                   masks=("m",)) for i in range(5)]
    paths = helpers.write_records(tmp_path, samples, shards=2)
    assert [p.name for p in paths] == [f"dift-0000{i}-of-00002.array_record" for i in range(2)]
    found = list(records.read_shards(records.find_shards(tmp_path)))
    assert [r.sample for r in found] == [samples[i] for i in (0, 2, 4, 1, 3)]
    for record in found:
        assert (list(record.frames), list(record.overlays)) == helpers.images(record.sample)


def test_bad_records(tmp_path):
    value = helpers.sample(0)
    frames, overlays = helpers.images(value)
    good = records.encode_sample(value, frames, overlays)
    for bad, message in [(b"", "first bytes"), (b"junk" * 9, "first bytes"), (good[:-1], "cut"),
                         (good[:40], "header"), (good + b"x", "too long")]:
        with pytest.raises(InputError, match=message):
            records.decode_sample(bad, "shard:3")
    with pytest.raises(InputError, match="3 encoded frames, 4 named"):
        records.encode_sample(value, frames[1:], overlays)
    with pytest.raises(InputError, match="no .*array_record file"):
        records.find_shards(tmp_path)
    first, _ = helpers.write_records(tmp_path, [value, helpers.sample(1)])
    first.unlink()
    with pytest.raises(InputError, match="1 of 2 shards of 'dift'"):
        records.find_shards(tmp_path)


def test_a_failed_shard_write_leaves_nothing(tmp_path):
    def blobs():
        yield b"x"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        records.write_shards(tmp_path, "d", blobs(), 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change, message", [
    (dict(options=("a",)), "1 options"), (dict(answer="Z"), "not an option's letter"),
    (dict(options=()), "the key is 'A', but there are no options"),
    (dict(overlay_timestamps=(0.0,)), "2 overlays, 1 timestamps"),
])
def test_check(change, message):
    check(Sample.fake(), "here")
    with pytest.raises(InputError, match=message):
        check(dataclasses.replace(Sample.fake(), **change), "here")
