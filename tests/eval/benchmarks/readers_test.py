"""Readers on official layouts, prompts to the letter, and files that are not as they should be."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from helpers.evaluation import PROCESSOR

from fourd4d.core import jsonl
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.eval.benchmarks import (
    TABLE,
    AskProtocol,
    Benchmark,
    BenchmarkSource,
    Clip,
    Question,
    fakes,
    get,
    imagery_protocol,
    kits,
    tables,
)
from fourd4d.eval.benchmarks.frames import AtRate, EveryFrame, FrameReader, Nearest, Pooled, Uniform
from fourd4d.eval.benchmarks.overlap import overlap, sentence
from fourd4d.processing.media import Image
from fourd4d.processing.processor import Processor
from fourd4d.processing.tokenizer import SPECIAL_TOKENS

NAMES = ("dsr_bench", "vlm4d", "sti_bench", "vsi_bench", "revsi", "dyn_bench", "dsi_bench",
         "mmsi_video", "jsonl")


@pytest.fixture(scope="module", params=NAMES)
def opened(request, tmp_path_factory):
    benchmark = TABLE[request.param]
    return benchmark, benchmark.fake(tmp_path_factory.mktemp(benchmark.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fakes by name, each written once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = TABLE[name].fake(tmp_path_factory.mktemp(name))
        return made[name]
    return of


def test_every_split_and_protocol_asks_every_question(opened):
    benchmark, root = opened
    for split in benchmark.splits[:2]:
        rows = benchmark.open(root, split=split)
        keys = [q.key for q in rows.questions]
        assert len(rows) >= 3 and len(set(keys)) == len(keys)
        assert [row.sample.id for row in rows] == keys
    for protocol in benchmark.protocols:
        rows = benchmark.open(root, protocol)
        told = 0
        for number, question in enumerate(rows.questions):
            try:
                parts = rows.parts(number)
            except InputError as error:
                assert question.problem or "no such file" in str(error) or (
                    "no frame between" in str(error))
                assert str(error).count(f"{question.where}:") == 1
                told += 1
                continue
            assert any(not isinstance(part, str) for part in parts)
            text = "".join(part for part in parts if isinstance(part, str))
            for option in question.options:
                assert option in text
        assert told < len(rows)


def test_perfect_answers_score_one_everywhere(opened):
    benchmark, root = opened
    for protocol, ask in benchmark.protocols.items():
        rows = benchmark.open(root, protocol)
        scores, own = {}, {}
        for number, question in enumerate(rows.questions):
            if question.problem:
                scores[question.key] = own[question.key] = 0.0
                continue
            said = question.key_text[:1] if question.number is None else f"{question.number:g}"
            record = rows.score(number, f"<answer>{said}</answer>" if protocol == "kit"
                                and benchmark.name == "dsi_bench" else said)
            scores[question.key] = record["score"]
            own[question.key] = record.get("own_score", 1.0)
            assert record["lenient_score"] == record["score"] == 1.0
        assert own == scores or ask.own is None
        table = benchmark.aggregate(rows.questions, scores)
        failed = sum(bool(q.problem) for q in rows.questions)
        assert next(iter(table.values())) == pytest.approx(1 - failed / len(rows))


def test_prompts_are_the_kits_to_the_letter(folder):
    def text(name, protocol, number=0, **more):
        parts = TABLE[name].open(folder(name), protocol, **more).parts(number)
        return "".join(part if isinstance(part, str) else "[V]" for part in parts)

    assert text("dsr_bench", "kit") == (
        "\nThese are the frames of a video. Select the best answer to the following multiple-choice"
        " question based on the video. Respond with only the letter (A, B, C, or D) of the correct "
        "option.\n[V]Question: Which way does the square go?\nA. Left\nB. Right\nC. Up\nD. Down\n"
        "Answer: ")
    assert text("dsr_bench", "kit") == text("dsr_bench", "kit", split="tsv")
    assert text("sti_bench", "kit") == (
        "[V]Answer the question below based on the frames provided, which are sampled at about 8.00"
        " FPS.\nQuestion: From 0.0 seconds to 2.0 seconds. How wide is the square?\nA 0.1 m\n"
        "B 0.2 m\nC 0.3 m\nD 0.4 m\nE 0.5 m\nPlease output only the option you choose!")
    assert text("vsi_bench", "kit", 6) == (
        "[V]These are frames of a video.\nQuestion 6 about the square?\nPlease answer the question "
        "using a single word or phrase.")
    assert text("vsi_bench", "kit") == (
        "[V]These are frames of a video.\nQuestion 0 about the square?\nOptions:\nA. left\n"
        "B. right\nC. back\nD. front\nAnswer with the option's letter from the given choices "
        "directly.")
    assert text("revsi", "kit", 7).endswith(
        "\nAnswer the question using a single integer or decimal number.")
    assert text("mmsi_video", "u50", 1).startswith(
        "You look at videos.\nThink of space. [V][V][V]Which way does it go?\nA. a\n")
    assert text("mmsi_video", "u50", 1).endswith("F. f\nAnswer with one letter.")
    assert text("vlm4d", "kit_direct") == (
        "[V]\nQuestion: What direction is the bus moving towards?\nA: not moving\nB: there are no "
        "buses in the video\nC: right\nD: left\n\nDo not generate any intermediate reasoning "
        "process. Answer directly with the option letter from the given choices.\n")
    assert "'Therefore, the final answer is: $LETTER' (without quotes)" in text("vlm4d", "kit")
    assert text("dsi_bench", "kit").endswith(
        "<answer>[A, B, C, or D]</answer>\n\nQuestion:\nWhich way does the square go? A. Left "
        "B. Right C. Up D. Down")
    assert text("dyn_bench", "kit") == (
        "[V]Which way, cameraqa?\nA. Left\nB. Right\nC. Up\nD. Down\nAnswer with the option's "
        "letter from the given choices directly.")


def test_control_tokens_and_marks_in_options_stay_text(folder):
    rows = TABLE["dsr_bench"].open(folder("dsr_bench"), "kit")
    tokenizer = PROCESSOR.tokenizer
    odd, plain = (rows.example(n, PROCESSOR).tokens for n in (2, 0))
    for name in SPECIAL_TOKENS:
        assert np.sum(odd == tokenizer.id(name)) == np.sum(plain == tokenizer.id(name)), name
    assert "B. <|latent_start|>\n" in tokenizer.decode(odd)
    mmsi = TABLE["mmsi_video"].open(folder("mmsi_video"), "u50")
    parts = mmsi.parts(2)  # One picture, and an option that reads <image>.
    assert sum(isinstance(part, Image) for part in parts) == 1
    assert "A. <image>" in "".join(p for p in parts if isinstance(p, str))
    blind = "".join(p for p in mmsi.with_("u50", "blind").parts(2) if isinstance(p, str))
    assert "A. <image>" in blind and "<video>" not in blind and blind.count("<image>") == 1


def test_frames_of_the_rules():
    times = np.arange(100) / 25
    assert Uniform(5)([times]) == [[0, 24, 49, 74, 99]]
    assert Uniform(8)([times[:3]]) == [[0, 1, 2]]
    assert AtRate(1.0)([times]) == [[0, 25, 50, 75]]
    # 29.97 frames a second: int(i * 29.97…), and 100 frames are 3.3 s.
    assert AtRate(1.0)([np.arange(100) * 1001 / 30000]) == [[0, 29, 59]]
    assert AtRate(1.0)([times[:5]]) == [[0]]
    assert Nearest(1.0, 50)([times]) == [[0, 25, 50, 75]]
    assert Nearest(1.0, 2)([times]) == [[0, 99]]
    assert EveryFrame(4)([times]) == [[0, 33, 66, 99]]
    one, two = np.arange(20.0), np.arange(60.0)
    found = Pooled(50)([one, two])
    assert sum(map(len, found)) == 50 and found[0][:3] == [0, 1, 3] and found[1][-1] == 59
    assert Pooled(3)([np.arange(2.0), one]) == [[0], [8, 19]]
    assert Pooled(2)([np.arange(1.0), np.arange(1.0), np.arange(9.0)]) == [[0], [0], [8]]


def test_a_video_is_decoded_once_for_all_its_questions(folder):
    rows = TABLE["dsr_bench"].open(folder("dsr_bench"), "kit")
    for number in (0, 1, 2, 0):
        rows.shown(number)
    assert rows.reader.decoded == 2
    again = rows.with_("kit", "shuffled")
    again.shown(0)
    assert rows.reader.decoded == 2
    small = FrameReader(rows.root, limit=10)
    for _ in range(2):
        small.show(rows.questions[0].clips, AtRate(1.0), False, "q")
    assert small.decoded == 2


def test_views_of_one_path_are_different_videos(folder):
    rows = TABLE["dsi_bench"].open(folder("dsi_bench"), "kit")
    by_key = {q.key: n for n, q in enumerate(rows.questions)}
    frames = [rows.shown(by_key[f"{view}/1"]).media[0].frames for view in ("std", "hflip")]
    assert not np.array_equal(*frames)
    scores = {q.key: 1.0 for q in rows.questions} | {"std/1": 0.0, "std/2": 0.0, "hflip/2": 0.0}
    table = TABLE["dsi_bench"].aggregate(rows.questions, scores)
    assert table["sample_wise"] == pytest.approx(9 / 12)
    assert table["group_wise"] == pytest.approx(2 / 3)  # 3 of 4 are enough, 2 are not.


def test_answers_as_texts_letters_and_indices():
    texts = ("1", "2", "3", "0")
    assert tables.answers_of(3, texts, "row", texts_first=True) == ("C",)
    assert tables.answers_of(0, ("a", "b"), "row") == ("A",)
    assert tables.answers_of("1", ("a", "b"), "row") == ("B",)
    assert tables.answers_of("b", ("a", "b"), "row") == ("B",)
    assert tables.answers_of("B. up", ("down", "up"), "row") == ("B",)
    assert tables.answers_of("(b)", ("down", "up"), "row") == ("B",)
    assert tables.answers_of("Up.", ("down", "up"), "row") == ("B",)
    assert tables.answers_of("D", ("x", "y", "up", "up"), "row") == ("C", "D")
    assert tables.answers_of(1.0, ("down", "up"), "row") == ("B",)
    assert tables.answers_of("1.0", ("down", "up"), "row") == ("B",)
    assert tables.answers_of(2.0, texts, "row", texts_first=True) == ("B",)
    assert tables.answers_of(2, ("1.0", "2.0", "3.0"), "row") == ("B",)
    assert tables.answers_of(True, ("No", "Yes."), "row") == ("B",)
    assert tables.answers_of(np.bool_(False), ("yes", "no", "unclear"), "row") == ("B",)
    assert tables.answers_of("FALSE", ("Yes", "No"), "row") == ("B",)
    assert tables.answers_of("yes", ("True", "False"), "row") == ("A",)
    for said in ("Ｂ", "ｂ", "（Ｂ）", "Ｂ．up", "B、up", "【B】"):
        assert tables.answers_of(said, ("down", "up"), "row") == ("B",), said
    for bad in (2.0, 1.5, "Ｃ", "-1", False, 1e300):
        with pytest.raises(InputError, match="row: the answer .* is none of the 2 options"):
            tables.answers_of(bad, ("down", "up"), "row")
    with pytest.raises(InputError, match="'4.0' is none of the 3"):
        tables.answers_of(4.0, ("0", "1", "2"), "row")
    with pytest.raises(InputError, match="'2.0' is none of the 3"):  # No index: they are numbers.
        tables.answers_of(2.0, ("0", "1", "3"), "row")
    for bad in (True, 10**400, "two"):
        with pytest.raises(InputError, match="'n' is .*It must be a number"):
            tables.number({"n": bad}, "n", "row")
    for bad in ("E", None, float("nan"), "B. down", 7, True):
        with pytest.raises(InputError, match="row: "):
            tables.answers_of(bad, ("down", "up"), "row")


@pytest.mark.parametrize("given, want", [
    (["A. Left", "B. Right"], ("Left", "Right")), (["Ａ．左", "Ｂ．右"], ("左", "右")),
    ({"Ａ": "x", "Ｂ": "y"}, ("x", "y")), (["A.", "B."], ("A.", "B.")),
    ('["A) x", "B) y"]', ("x", "y")),
    ("['it\\'s', \"b\"]", ("it's", "b")), ({"B": 2, "A": 1}, ("1", "2")),
    ('{"A": "<b>x</b>", "B": "y"}', ("<b>x</b>", "y")), (np.array(["a", "b"]), ("a", "b")),
    ([f"{n}" for n in range(10)], tuple(f"{n}" for n in range(10)))])
def test_options_in_every_form(given, want):
    assert tables.options_of(given, "row")[0] == want


@pytest.mark.parametrize("given", [
    ["one"], [str(n) for n in range(11)], "__import__('os').system('x')", {"A": 1, "C": 2}, None,
    ["a", ""], ["a", float("nan")], "[" * 5000, 7, {"a": "x", "A": "y", "B": "z"}, [10**400, "b"],
    ["A. Left", "B. ", "C. Up"], ["A. Left", "B. Right", "C."], {"A": "A. Left", "B": "B."}])
def test_options_that_are_none(given):
    with pytest.raises(InputError, match="row: "):
        tables.options_of(given, "row")


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "clip").mkdir()
    names = ["frame_1.JPG", "frame_2.jpg", "frame_10.jpg", "frame_11.jpg"]
    for name in (*names, "mask.png", "notes.txt"):
        (tmp_path / "clip" / name).touch()
    assert tables.frame_files(tmp_path, "clip") == tuple(f"clip/{name}" for name in names)
    assert tables.frame_files(tmp_path, "clip", "*.png") == ("clip/mask.png",)


def test_other_columns_are_one_clear_line(tmp_path):
    fakes.parquet(tmp_path / "benchmark.parquet", [dict(video="v", prompt="q")])
    with pytest.raises(InputError, match=r"no columns \['videoID'.*it has \['video', 'prompt'\]"):
        TABLE["dsr_bench"].open(tmp_path)
    (tmp_path / "benchmark.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable parquet"):
        TABLE["dsr_bench"].open(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        TABLE["dsr_bench"].open(tmp_path / "gone")
    for name in NAMES:
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"no (file|folder)"):
            TABLE[name].open(tmp_path / "empty")
    with pytest.raises(InputError, match="there is no 'dsr'"):
        get("dsr")
    with pytest.raises(InputError, match="has no 'kitt'"):
        TABLE["dsr_bench"].open(tmp_path, "kitt")


def test_long_and_broken_files_are_told_in_a_short_line(tmp_path):
    def told(name):
        with pytest.raises(InputError) as caught:
            TABLE[name].open(tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
        return str(caught.value)

    (tmp_path / "DSRBench.tsv").write_text("[" * 100_000)
    assert "no columns ['question'" in told("dsr_bench")
    path = tmp_path / "benchmark.parquet"
    TABLE["dsr_bench"].fake(tmp_path / "whole")
    path.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "whole" / path.name).read_bytes())
    assert "it cannot be read" in told("dsr_bench")
    row = dict(id=1, dataset="d", scene_name="s", question="q", options=["a", "b"],
               ground_truth="A", pruned=False)
    fakes.parquet(tmp_path / "test-0.parquet", [
        row | dict(question_type="x" * 10_000),
        row | dict(question_type="object_counting", ground_truth="9" * 100_000 + "?")])
    for question in TABLE["vsi_bench"].open(tmp_path).questions:
        assert question.problem and len(question.problem) < 800


def test_a_table_with_newlines_in_its_cells(tmp_path):
    rows = [dict(index=n, question="Which\nway\tdoes it \"go\"?", options='["a\\nb", "c"]',
                 answer="B", video="v.mp4", task_type="abs_dir") for n in range(3)]
    fakes.separated(tmp_path / "DSRBench.tsv", rows)
    found = TABLE["dsr_bench"].open(tmp_path).questions
    assert len(found) == 3 and found[2].text == "Which\nway\tdoes it \"go\"?"
    assert found[0].options == ("a b", "c") and not any(q.problem for q in found)


def test_nan_in_json_fails_its_row_alone(tmp_path):
    root = TABLE["vlm4d"].fake(tmp_path)
    path = root / "QA" / "real_mc.json"
    rows = json.loads(path.read_text())
    rows[1]["answer"] = float("nan")
    rows[2] = "no row"
    path.write_text(json.dumps(rows))
    found = TABLE["vlm4d"].open(root, split="real").questions
    assert [bool(q.problem) for q in found] == [False, True, True, False]
    assert "real_mc.json:2" in found[1].problem and len(found[1].options) == 4
    path.write_text("[{")
    with pytest.raises(InputError, match="malformed JSON"):
        TABLE["vlm4d"].open(root)


@pytest.mark.slow
def test_fifty_thousand_rows_one_bad_at_the_end(tmp_path):
    import pyarrow
    import pyarrow.parquet

    count = 50_000
    pyarrow.parquet.write_table(pyarrow.table({
        "videoID": [f"v{n % 500}" for n in range(count)], "question": ["Which way?"] * count,
        "options": [["A. Left", "B. Right"]] * count, "type": ["abs_dir"] * count,
        "answer": ["B"] * (count - 1) + ["C"]}), tmp_path / "benchmark.parquet")
    rows = TABLE["dsr_bench"].open(tmp_path)
    assert len(rows) == count and [bool(q.problem) for q in rows.questions[-2:]] == [False, True]
    assert len(rows.items()) == count and rows.items()[-1].problem and rows.items()[-1].options == 2


def test_an_unreadable_video_and_a_path_outside_are_told(tmp_path):
    root = TABLE["dsr_bench"].fake(tmp_path)
    (root / "v0.mp4").write_bytes(b"no video at all" * 50)
    rows = TABLE["dsr_bench"].open(root, "kit")
    with pytest.raises(InputError, match=r"benchmark.parquet:1: .*v0.mp4"):
        rows.shown(0)
    question = dataclasses.replace(rows.questions[0], clips=(Clip("../x.mp4"),))
    with pytest.raises(InputError, match="leaves the data root"):
        rows.reader.show(question.clips, AtRate(1.0), False, "row")


def test_dyn_bench_leaves_masks_out_and_names_a_bad_file(tmp_path):
    root = TABLE["dyn_bench"].fake(tmp_path)
    assert not any("mask" in q.key for q in TABLE["dyn_bench"].open(root).questions)
    (root / "multi_json" / "davis" / "a_cat_qa.json").write_text("{")
    rows = TABLE["dyn_bench"].open(root)
    (bad,) = [q for q in rows.questions if q.problem]
    assert "a_cat_qa.json" in bad.problem and bad.kind == "Inter-Object" and len(rows) == 11


def test_vsi_bench_is_split_by_column_or_by_ids(tmp_path):
    root = TABLE["vsi_bench"].fake(tmp_path)
    sizes = [len(TABLE["vsi_bench"].open(root, split=s)) for s in ("full", "debiased", "pruned")]
    assert sizes == [10, 7, 3]
    (root / "pruned_ids.txt").write_text("0\n1\n")
    assert len(TABLE["vsi_bench"].open(root, split="pruned")) == 2


def test_tables_average_as_their_authors_do():
    def questions(kinds):
        return [Question(f"{n}", kind=kind) for n, kind in enumerate(kinds)]

    vsi = questions(["object_rel_direction_easy"] * 8 + ["object_rel_direction_hard",
                                                         "object_counting"])
    scores = {q.key: float(n < 8) for n, q in enumerate(vsi)} | {"9": 0.5}
    found = TABLE["vsi_bench"].aggregate(vsi, scores)
    assert found["object_rel_direction"] == 0.5 and found["overall"] == 0.5
    dyn = questions(["Camera-Object"] * 3 + ["Inter-Object"])
    found = TABLE["dyn_bench"].aggregate(dyn, {"0": 1.0, "1": 1.0, "2": 1.0, "3": 0.0})
    assert found["overall"] == 0.5
    v = questions(["real_exo", "real_ego", "real_ego", "synthetic_directional"])
    found = TABLE["vlm4d"].aggregate(v, {"0": 1.0, "1": 0.0, "2": 0.0, "3": 1.0})
    assert found["overall"] == 0.5 and found["real"] == pytest.approx(1 / 3)
    revsi = questions(["object_counting_single", "object_counting_multiple", "route_planning"])
    assert TABLE["revsi"].aggregate(revsi, {"0": 1.0, "1": 0.0, "2": 1.0})["overall"] == 0.75


def test_kits_find_their_layouts(folder, tmp_path):
    rows = TABLE["vlm4d"].open(folder("vlm4d"), "kit_32")
    records = {q.key: {"response": "C", **rows.score(n, "C")} for n, q in enumerate(rows.questions)}
    written = kits.write(rows, rows.items(), records, tmp_path, "a/b c")
    assert {str(p.relative_to(tmp_path)) for p in written} == {
        f"{place}/{split}_mc_cot/a_b_c_32frame.json" for place in ("outputs", "processed_outputs")
        for split in ("real", "synthetic")}
    real = json.loads((tmp_path / "processed_outputs/real_mc_cot/a_b_c_32frame.json").read_text())
    assert [row["correct"] for row in real] == [True, True, True, True]
    assert real[0]["extracted_answer"] == "C: right" and real[1]["ground_truth_answer"] == 3
    rows = TABLE["dsr_bench"].open(folder("dsr_bench"), "kit")
    records = {q.key: {"response": "a\nB"} for q in rows.questions}
    (path,) = kits.write(rows, rows.items(), records, tmp_path, "m")
    with path.open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert path.name == "m_DSRBench.tsv" and len(table) == 5
    assert [row["answer"] for row in table] == ["B", "C", "C", "A", "E"]
    assert table[0]["prediction"] == "a\nB" and table[4]["task_type"] == "abs_spd"


def test_kits_scorers_meet_no_key_that_they_cannot_read(folder, tmp_path):
    def written(name, **row):
        whole = TABLE[name].open(folder(name), split={"vlm4d": "synthetic"}.get(name, ""))
        odd = [dataclasses.replace(q, answers=(), row={**q.row, **row}) for q in whole.questions]
        rows = BenchmarkSource(whole.benchmark, whole.root, odd, whole.protocol, whole.split)
        records = {q.key: {"response": "", "lenient": None, "lenient_correct": False} for q in odd}
        return kits.write(rows, rows.items(), records, tmp_path / name, "m")

    (path,) = written("dsr_bench", answer="Right")  # Were it "Right", an empty answer would be too.
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            assert row["answer"] == "ABCDEF"[len(json.loads(row["options"]))]  # Behind the last.
    _, path = written("vlm4d", answer=3, id=None)
    for row in json.loads(path.read_text()):
        assert row["ground_truth_answer"].strip() == "3" and int(row["id"].split("_")[-1]) == 0


def test_a_bound_of_a_frame_is_of_each_frame(folder):
    """Also where the checkpoint's own bound is of all frames of a video together."""
    whole = TABLE["dsr_bench"].open(folder("dsr_bench"), "kit")
    tight = dataclasses.replace(whole.benchmark.protocols["kit"], max_pixels=512)
    benchmark = dataclasses.replace(whole.benchmark, protocols={"tight": tight})
    rows = BenchmarkSource(benchmark, whole.root, whole.questions, "tight")
    together = dataclasses.replace(PROCESSOR.protocol, budget="video", max_pixels=100_000)
    grids = [rows.example(0, processor).slots.mask.sum((1, 2)).tolist() for processor in (
        PROCESSOR, Processor(PROCESSOR.tokenizer, together))]
    loose = whole.example(0, PROCESSOR).slots.mask.sum((1, 2)).tolist()
    assert len(loose) > 1 and grids[0] == grids[1] and max(grids[0]) < min(loose)


def test_a_benchmark_from_outside_joins_the_table(tmp_path, monkeypatch):
    def read(root, split):
        return tables.questions_of(root / "toy.csv", ("q", "a", "b", "right", "clip"),
                                   lambda row, where: tables.choice(
            row, where, key=row["clip"], question=tables.text(row, "q", where),
            options=[row["a"], row["b"]], answer=row["right"], kind="toy",
            clips=[tables.video_clip(row["clip"])]))

    def write_fake(root):
        fakes.separated(root / "toy.csv", [dict(q="Left?", a="yes", b="no", right="no",
                                                clip="c.mp4")])
        fakes.video(root / "c.mp4")

    toy = Benchmark("toy", "Toy", read, write_fake, {
        "4dthinker": imagery_protocol(),
        "short": AskProtocol("here", lambda q, shown: [q.text, *shown.media], Uniform(4))},
        lambda questions, scores: {"overall": sum(scores.values())})
    monkeypatch.setitem(TABLE, "toy", toy)
    rows = get("toy").open(get("toy").fake(tmp_path), "short")
    assert rows.questions[0].answers == ("B",) and len(rows.shown(0).media[0].frames) == 4
    assert rows.example(0, PROCESSOR).length > 10
    assert rows.score(0, "no")["score"] == 1.0


def test_overlap_with_training_data_by_name_and_looks(folder, tmp_path):
    rows = TABLE["vlm4d"].open(folder("vlm4d"))
    train = [jsonl.rl_row(dataclasses.replace(Sample.fake(n), id=f"t{n}", video_id="",
                                              video=video, frames=(), timestamps=()))
             for n, video in enumerate(("x/synth_001.mp4", "x/other.mp4", "x/bus.mp4"))]
    jsonl.write(tmp_path / "rl.jsonl", train)
    # Another name and size, the same film as synth_001; of the others nothing can be read.
    fakes.encode(tmp_path / "x" / "other.mp4", fakes.pictures(2).repeat(2, 1).repeat(2, 2))
    found = overlap(rows, tmp_path / "rl.jsonl")
    assert found["names"] == ["synth_001"] and found["items"] == 2  # "bus" is too short a name.
    looks = found["looks"]
    assert looks["pairs"] == {"videos_synthetic/synth_001.mp4": "x/other.mp4"}
    assert (looks["videos"], looks["items"]) == (1, 2)
    assert (looks["clips"], looks["clips_compared"], looks["videos_compared"]) == (3, 1, 3)
    assert overlap(rows, tmp_path / "rl.jsonl", most=1)["looks"]["clips_compared"] == 0
    assert found["of_items"] == len(rows) and "2 of 6 items" in sentence(found)
    assert "unknown" in sentence(overlap(rows, ""))
    assert "cannot be read" in sentence(overlap(rows, tmp_path / "gone.jsonl"))
