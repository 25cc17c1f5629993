"""A server that misbehaves in every way; replies held to the facts; what is kept and what it costs.

The server is a real HTTP server on this machine; it plays a script of replies.
"""

import collections
import dataclasses
import json
import threading
import time

import cv2
import numpy as np
import pytest
from helpers.endpoint import KEY, answers, says, serve  # noqa: F401  (a fixture)

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth.dataset import build
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.questions import reasoning_full
from fourd4d.synth.questions.ask import QuestionSpec, ask
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.simulator.clips import simulate_clips
from fourd4d.synth.simulator.spec import SceneSpec
from fourd4d.synth.vlm import client
from fourd4d.synth.vlm.client import (
    Client,
    EndpointUnreachable,
    Local,
    Prices,
    Request,
    RequestFailed,
)
from fourd4d.synth.vlm.openai_backend import Endpoint
from fourd4d.synth.vlm.rewrite import Asked, Draft, _reasoning_fault, _thought

TYPES = tuple(QUESTION_TYPES)

JPEG = cv2.imencode(".jpg", np.zeros((56, 84, 3), np.uint8))[1].tobytes()
ASK = Request("name", "What is it?", {"name": str}, (JPEG,), {"name": "red cube"})


GOOD = says('{"name": "red cube"}', usage={"prompt_tokens": 30, "completion_tokens": 5})


def test_a_request_is_a_chat_completion_with_images(serve):
    server, endpoint, _ = serve(GOOD, json_mode=True)
    said = endpoint(ASK)
    (path, headers, body), = server.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "eye" and body["temperature"] == 0 and body["max_tokens"] == 300
    assert body["response_format"] == {"type": "json_object"}
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert text == {"type": "text", "text": "What is it?"}
    assert (said.text, said.input_tokens, said.output_tokens) == ('{"name": "red cube"}', 30, 5)


@pytest.mark.parametrize("bad", [
    (429, "slow down", {"Retry-After": "7"}), (500, "<html>oops</html>", {}), (503, "", {}),
    (200, "<html>gateway</html>", {}), (200, '{"choices": []}', {}), (200, b"\xff\xfe", {}),
    (200, '{"choices": [{"message": {"content": null}}]}', {}),
])
def test_passing_faults_are_tried_again_with_growing_pauses(serve, bad):
    server, endpoint, pauses = serve(bad, bad, GOOD)
    assert "red cube" in endpoint(ASK).text and len(server.seen) == 3
    if bad[0] == 429:
        assert pauses == [7.0, 7.0]
    else:
        assert 1 <= pauses[0] <= 1.5 and 2 <= pauses[1] <= 3


def test_retries_come_to_an_end(serve):
    server, endpoint, pauses = serve(*[(500, "", {"Retry-After": "999"})] * 4)
    with pytest.raises(RequestFailed, match="HTTP 500"):
        endpoint(ASK)
    assert len(server.seen) == 4 and pauses == [60.0] * 3


def test_a_server_that_hangs_is_left(serve):
    _, endpoint, _ = serve("hang", GOOD, timeout=0.3)
    assert "red cube" in endpoint(ASK).text
    _, endpoint, _ = serve("hang", "hang", timeout=0.3, retries=1)
    with pytest.raises(RequestFailed, match="no reply in time"):
        endpoint(ASK)
    dead = dataclasses.replace(endpoint, url="http://127.0.0.1:9/v1")
    with pytest.raises(RequestFailed, match="no connection"):
        dead(ASK)


def test_a_refusal_stops_the_run_and_the_key_is_never_told(serve, caplog, capfd, tmp_path):
    echo = json.dumps({"error": f"bad key {KEY} in Bearer {KEY}"})
    server, endpoint, _ = serve((401, echo, {}))
    with pytest.raises(EndpointUnreachable, match="HTTP 401.*OPENAI_API_KEY") as stop:
        Client(endpoint, tmp_path).ask([ASK])
    assert "***" in str(stop.value) and len(server.seen) == 1
    _, other, _ = serve((302, "", {"Location": "http://127.0.0.1:9/steal"}))
    with pytest.raises(EndpointUnreachable, match="HTTP 302"):
        other(ASK)
    _, fine, _ = serve(GOOD)
    Client(fine, tmp_path).ask([ASK])
    told = str(stop.value) + repr(endpoint) + caplog.text + "".join(capfd.readouterr())
    told += "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in told and "eye" in told


@pytest.mark.parametrize("url, told", [
    ("file:///etc/passwd", "no web address"), ("http://me:pw@host/v1", "user, password"),
    ("http://host/v1?key=3", "query"), ("", "no web address"),
])
def test_addresses_are_checked(url, told):
    with pytest.raises(InputError, match=told):
        Endpoint(url, "eye")


@pytest.mark.parametrize("reply, told", [
    ("YES", "no JSON object"), ("[1]", "no JSON object"), ('{"name": "x"} indeed', "no JSON"),
    ('{"name": "x", "name": "y"}', "no JSON"), ('{"name": NaN}', "no JSON"),
    ("[" * 9999, "no JSON"),
    ('{"name": "x", "why": ""}', "other fields"), ("{}", "other fields"),
    ('{"name": 3}', "name is not text"), ('{"name": "  "}', "name is empty"),
    ('{"name": "<b>cube</b>"}', "markup"), ('{"name": "<script>"}', "markup"),
    ('{"name": "**cube**"}', "markup"), ('{"name": "<|im_end|>"}', "markup"),
    ('{"name": "[cube](http://x)"}', "markup"), ('{"name": "a\\u0007b"}', "markup"),
    ('{"name": "<output_image>"}', "markup"),
])
def test_replies_of_another_form_are_refused(reply, told):
    verdict = client.parse(reply, ASK)
    assert verdict.value is None and told in verdict.reason


def test_truth_is_a_boolean_not_a_word():
    ask_same = Request("consistency", "", {"same": bool})
    for reply in ('{"same": "YES"}', '{"same": 1}', '{"same": null}', "YES, the same"):
        assert client.parse(reply, ask_same).value is None
    assert client.parse('```json\n{"same": false}\n```', ask_same).value == {"same": False}
    assert client.parse(' {"name": "it is < 3"} ', ASK).value == {"name": "it is < 3"}


def test_garbage_is_asked_about_again_and_then_recorded(serve, tmp_path):
    server, endpoint, _ = serve(says("Sure! It is a cube."), GOOD, says("<p>"), says("cube"))
    client = Client(endpoint, tmp_path)
    assert client.ask([ASK])[0].value == {"name": "red cube"}
    again = server.seen[1][2]["messages"][0]["content"][1]["text"]
    assert "refused: the reply is not a JSON object" in again
    other = dataclasses.replace(ASK, text="And this?")
    verdict = client.ask([other])[0]
    assert verdict.value is None and verdict.reason == "the reply is not a JSON object"
    assert client.counts["name", "refused"] == 3 and client.counts["name", "calls"] == 4


def test_sound_replies_are_kept_by_content(serve, tmp_path):
    server, endpoint, _ = serve(*[GOOD] * 5)
    assert Client(endpoint, tmp_path).ask([ASK])[0].value == {"name": "red cube"}
    kept, = tmp_path.rglob("*.json")
    client = Client(endpoint, tmp_path)
    assert client.ask([ASK, ASK])[1].value == {"name": "red cube"}
    assert len(server.seen) == 1 and client.total("cached") == 2
    for changed in (dict(text="Else?"), dict(images=(JPEG + b" ",)), dict(max_tokens=9)):
        client.ask([dataclasses.replace(ASK, **changed)])
    assert len(server.seen) == 4
    for text in ("{", '{"value": {"name": 3}}', '{"value": {"name": "<b>"}}'):
        kept.write_text(text)
    Client(endpoint, tmp_path).ask([ASK])
    assert len(server.seen) == 5 and json.loads(kept.read_text())["value"] == {"name": "red cube"}


def test_no_more_requests_at_once_than_allowed(serve):
    gate = threading.Barrier(3, timeout=10)

    def reply(body):
        gate.wait()  # Goes on only when three are here together;
        time.sleep(0.2)  # were there no limit, the others would come meanwhile.
        return GOOD

    server, endpoint, _ = serve(reply)
    client = Client(endpoint, concurrency=3)
    verdicts = client.ask([dataclasses.replace(ASK, text=str(i)) for i in range(9)])
    assert all(v.value for v in verdicts) and server.most == 3


def test_a_dead_server_stops_the_run(serve):
    _, endpoint, _ = serve(*[(500, "", {})] * 9, retries=0)
    client = Client(endpoint, concurrency=1, give_up=3)
    with pytest.raises(EndpointUnreachable,
                       match="3 requests in a row came to nothing, the last: HTTP"):
        client.ask([dataclasses.replace(ASK, text=str(i)) for i in range(9)])


def test_a_dry_run_asks_nobody_and_tells_the_price(tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "eye", sleep=lambda _: pytest.fail("asked"))
    client = Client(endpoint, tmp_path, dry=True)
    asks = [dataclasses.replace(ASK, text="x" * 400, images=(JPEG, JPEG)) for _ in range(10)]
    assert client.ask(asks)[0].value == {"name": "red cube"}
    tokens = 10 * (100 + 12)  # 400 letters; two images of 84 x 56.
    assert (client.total("calls"), client.input_tokens) == (10, tokens)
    told = client.account(Prices(1000.0, 0.0))
    assert "10 calls (10 name)" in told and f"cost {tokens / 1000:.2f}" in told
    assert not list(tmp_path.iterdir())


# ---- the words themselves ----


@pytest.fixture(scope="module")
def scenes():
    return list(simulate_clips(SceneSpec(), seed=8, start=0, count=16))


@pytest.fixture(scope="module")
def draft(scenes):
    for clip in scenes:
        rng = np.random.default_rng(1)
        try:
            question = ask(clip, "direction", rng, QuestionSpec())
            return Draft(question, reasoning_full.reasoning(clip, question, rng))
        except Exception:
            continue
    raise AssertionError("no draft")


def test_reasoning_must_keep_to_the_facts(draft):
    before, question = _thought(draft.response), draft.question
    fault = lambda text: _reasoning_fault(text, before, question)
    assert fault(before) == "" and fault("In short: " + before) == ""
    assert "images" in fault(before.replace(IMAGE_MARK, "", 1))
    assert "another number" in fault(before + " That is 9876%.")
    assert "parts an image" in fault(IMAGE_MARK + ". " + before.replace(IMAGE_MARK, "", 1))
    other = next(letter for letter in "ABCD" if letter != question.answer)
    assert "another option" in fault(before + f" Thus option {other} fits.")
    assert "another direction" in fault(before + " It turns clockwise and decelerates.")


def made(tmp_path, endpoint, scenes, folder="data", **more):
    client = Client(endpoint, tmp_path / "cache", concurrency=2, give_up=2)
    recipe = DatasetSpec(TYPES, QuestionSpec(), 1, words=Asked(client, **more))
    works = [VideoJob(c.video_id, lambda c=c: [c]) for c in scenes]
    return build.build_dataset(tmp_path / folder, works, None, recipe), client


def test_a_dataset_in_the_words_of_a_model(serve, tmp_path, scenes):
    _, endpoint, _ = serve(answers())
    entries, client = made(tmp_path, endpoint, scenes[:6])
    samples = [s for e in entries.values() for s in e.samples]
    assert samples and client.total("failed") == 0
    for sample in samples:
        assert sample["question"].startswith("Tell me: ")
        assert sample["response"].startswith("<think>Well. ")
        assert sample["provenance"]["reasoning_by"].startswith("eye at http://")
    names = [t["name"] for e in entries.values() for d in e.drawing.values() for t in d["tracks"]]
    assert names and all("toy block" in name for name in names)
    # Told again from the cache alone, the same dataset comes out.
    _, dead, _ = serve()
    dead = dataclasses.replace(dead, url=endpoint.url, retries=0)
    _, quiet = made(tmp_path, dead, scenes[:6], "again")
    assert quiet.total("calls") == 0 and quiet.total("cached") == client.total("calls")
    one, two = ((tmp_path / name / "dift.jsonl").read_text() for name in ("data", "again"))
    assert one == two


def test_what_a_model_gets_wrong_stays_the_templates(serve, tmp_path, scenes):
    _, endpoint, _ = serve(answers(
        name='{"name": "<i>cube</i>"}', question='{"question": "Does it go Left at 77s?"}',
        reasoning="I will not."))
    entries, _ = made(tmp_path, endpoint, scenes[:4])
    notes = sum((collections.Counter(e.notes) for e in entries.values()), collections.Counter())
    assert notes["vlm name: name holds markup"] and notes["vlm question: question changes a number"]
    assert notes["vlm reasoning: the reply is not a JSON object"]
    for entry in entries.values():
        for sample in entry.samples:
            assert "77s" not in sample["question"] and "reasoning_by" not in sample["provenance"]


def test_doubtful_tracks_are_dropped_and_counted(serve, tmp_path, scenes):
    _, endpoint, _ = serve(answers(same='{"same": false, "reason": "two things"}'))
    entries, _ = made(tmp_path, endpoint, scenes[:2], uses=("consistency",))
    for entry in entries.values():
        assert entry.status == "empty" and not entry.samples
        assert entry.dropped["vlm consistency: not one thing throughout"] >= 2


def test_an_outage_ends_the_run_which_then_goes_on(serve, tmp_path, scenes):
    _, endpoint, _ = serve(lambda body: (503, "", {}), retries=0)
    with pytest.raises(EndpointUnreachable):
        made(tmp_path, endpoint, scenes[:3])
    _, endpoint, _ = serve(answers())
    entries, _ = made(tmp_path, endpoint, scenes[:3])
    assert len(entries) == 3 and "failed" not in {e.status for e in entries.values()}


def test_a_model_of_ours_serves_the_same_calls(scenes, tmp_path):
    asked = []

    def say(text, images, max_tokens):
        asked.append((len(images), max_tokens))
        return answers()({"messages": [{"content": [{"text": text}]}]})[1]

    def content(text, images, max_tokens):
        return json.loads(say(text, images, max_tokens))["choices"][0]["message"]["content"]

    entries, client = made(tmp_path, Local("ours", content), scenes[:2])
    assert asked and client.total("refused") == 0
    assert any(s["provenance"]["question_by"] == "ours" for e in entries.values()
               for s in e.samples)
    with pytest.raises(InputError, match="unknown .'poetry'."):
        Asked(client, ("poetry",))
