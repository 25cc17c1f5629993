"""A server that misbehaves in every way; replies held to the facts; what is kept and what it costs.

The server is a real HTTP server on this machine; it plays a script of replies.
"""

import collections
import dataclasses
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.synth import full, pipeline, vlm
from fourd4d.synth.endpoint import Endpoint
from fourd4d.synth.pipeline import Recipe, Work
from fourd4d.synth.questions import KINDS, QuestionSpec, ask
from fourd4d.synth.scenes.source import clips
from fourd4d.synth.scenes.spec import SceneSpec
from fourd4d.synth.vlm import Client, Prices, Request, Unanswered, Unreachable
from fourd4d.synth.words import Asked, Draft, _reasoning_fault, _thought

KEY = "sk-very-secret-0123456789"
JPEG = cv2.imencode(".jpg", np.zeros((56, 84, 3), np.uint8))[1].tobytes()
ASK = Request("name", "What is it?", {"name": str}, (JPEG,), {"name": "red cube"})


def says(text, **more):
    return 200, json.dumps({"choices": [{"message": {"content": text}}], **more}), {}


GOOD = says('{"name": "red cube"}', usage={"prompt_tokens": 30, "completion_tokens": 5})


class Server(ThreadingHTTPServer):
    """Plays ``script``: (status, body, headers), or ``hang``; a callable makes the reply."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script if callable(script) else collections.deque(script)
        self.seen, self.busy, self.most, self.lock = [], 0, 0, threading.Lock()
        self.let_go = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.seen.append((self.path, dict(self.headers), json.loads(body)))
            server.busy += 1
            server.most = max(server.most, server.busy)
            played = server.script if callable(server.script) else server.script.popleft()
        try:
            played = played(json.loads(body)) if callable(played) else played
            if played == "hang":
                server.let_go.wait(20)
                return
            status, text, headers = played
            data = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # The client hung up.
        finally:
            with server.lock:
                server.busy -= 1

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def serve(*script, **options):
        server = Server(script[0] if len(script) == 1 and callable(script[0]) else script)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        pauses = []
        options = {"timeout": 10.0, "sleep": pauses.append, "retries": 3} | options
        return server, Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", "eye",
                                **options), pauses

    yield serve
    for server in servers:
        server.let_go.set()
        server.shutdown()
        server.server_close()


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
])  # fmt: skip
def test_passing_faults_are_tried_again_with_growing_pauses(serve, bad):
    server, endpoint, pauses = serve(bad, bad, GOOD)
    assert "red cube" in endpoint(ASK).text and len(server.seen) == 3
    if bad[0] == 429:
        assert pauses == [7.0, 7.0]
    else:
        assert 1 <= pauses[0] <= 1.5 and 2 <= pauses[1] <= 3


def test_retries_come_to_an_end(serve):
    server, endpoint, pauses = serve(*[(500, "", {"Retry-After": "999"})] * 4)
    with pytest.raises(Unanswered, match="HTTP 500"):
        endpoint(ASK)
    assert len(server.seen) == 4 and pauses == [60.0] * 3


def test_a_server_that_hangs_is_left(serve):
    _, endpoint, _ = serve("hang", GOOD, timeout=0.3)
    assert "red cube" in endpoint(ASK).text
    _, endpoint, _ = serve("hang", "hang", timeout=0.3, retries=1)
    with pytest.raises(Unanswered, match="no reply in time"):
        endpoint(ASK)
    dead = dataclasses.replace(endpoint, url="http://127.0.0.1:9/v1")
    with pytest.raises(Unanswered, match="no connection"):
        dead(ASK)


def test_a_refusal_stops_the_run_and_the_key_is_never_told(serve, caplog, capfd, tmp_path):
    echo = json.dumps({"error": f"bad key {KEY} in Bearer {KEY}"})
    server, endpoint, _ = serve((401, echo, {}))
    with pytest.raises(Unreachable, match="HTTP 401.*OPENAI_API_KEY") as stop:
        Client(endpoint, tmp_path).ask([ASK])
    assert "***" in str(stop.value) and len(server.seen) == 1
    _, other, _ = serve((302, "", {"Location": "http://127.0.0.1:9/steal"}))
    with pytest.raises(Unreachable, match="HTTP 302"):
        other(ASK)
    _, fine, _ = serve(GOOD)
    Client(fine, tmp_path).ask([ASK])
    told = str(stop.value) + repr(endpoint) + caplog.text + "".join(capfd.readouterr())
    told += "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in told and "eye" in told


@pytest.mark.parametrize("url, told", [
    ("file:///etc/passwd", "no web address"), ("http://me:pw@host/v1", "user, password"),
    ("http://host/v1?key=3", "query"), ("", "no web address"),
])  # fmt: skip
def test_addresses_are_checked(url, told):
    with pytest.raises(InputError, match=told):
        Endpoint(url, "eye")


@pytest.mark.parametrize("reply, told", [
    ("YES", "no JSON object"), ("[1]", "no JSON object"), ('{"name": "x"} indeed', "no JSON"),
    ('{"name": "x", "name": "y"}', "no JSON"), ('{"name": NaN}', "no JSON"),
    ("[" * 9999, "no JSON"),
    ('{"name": "x", "why": ""}', "other fields"), ("{}", "other fields"),
    ('{"name": 3}', "name is no text"), ('{"name": "  "}', "name is empty"),
    ('{"name": "<b>cube</b>"}', "markup"), ('{"name": "<script>"}', "markup"),
    ('{"name": "**cube**"}', "markup"), ('{"name": "<|im_end|>"}', "markup"),
    ('{"name": "[cube](http://x)"}', "markup"), ('{"name": "a\\u0007b"}', "markup"),
    ('{"name": "<output_image>"}', "markup"),
])  # fmt: skip
def test_replies_of_another_form_are_refused(reply, told):
    verdict = vlm.parse(reply, ASK)
    assert verdict.value is None and told in verdict.reason


def test_truth_is_a_boolean_not_a_word():
    ask_same = Request("consistency", "", {"same": bool})
    for reply in ('{"same": "YES"}', '{"same": 1}', '{"same": null}', "YES, the same"):
        assert vlm.parse(reply, ask_same).value is None
    assert vlm.parse('```json\n{"same": false}\n```', ask_same).value == {"same": False}
    assert vlm.parse(' {"name": "it is < 3"} ', ASK).value == {"name": "it is < 3"}


def test_garbage_is_asked_about_again_and_then_recorded(serve, tmp_path):
    server, endpoint, _ = serve(says("Sure! It is a cube."), GOOD, says("<p>"), says("cube"))
    client = Client(endpoint, tmp_path)
    assert client.ask([ASK])[0].value == {"name": "red cube"}
    again = server.seen[1][2]["messages"][0]["content"][1]["text"]
    assert "refused: the reply is no JSON object" in again
    other = dataclasses.replace(ASK, text="And this?")
    verdict = client.ask([other])[0]
    assert verdict.value is None and verdict.reason == "the reply is no JSON object"
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
    with pytest.raises(Unreachable, match="3 requests in a row came to nothing, the last: HTTP"):
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
    return list(clips(SceneSpec(), seed=8, start=0, count=16))


@pytest.fixture(scope="module")
def draft(scenes):
    for clip in scenes:
        rng = np.random.default_rng(1)
        try:
            question = ask(clip, "direction", rng, QuestionSpec())
            return Draft(question, full.reasoning(clip, question, rng))
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


def answers(**fixed):
    """A model that gives sensible replies by what is asked; ``fixed`` overrides."""

    def reply(body):
        text = body["messages"][0]["content"][-1]["text"]
        if '"same"' in text:
            return says(fixed.get("same", '{"same": true, "reason": "alike"}'))
        if '"name"' in text:
            return says(fixed.get("name", '{"name": "Toy block"}'))
        if '"question": "..."' in text:
            told = text.rsplit("\n\n", 1)[1]
            return says(fixed.get("question", json.dumps({"question": "Tell me: " + told})))
        told = text.rsplit("Reasoning: ", 1)[1]
        return says(fixed.get("reasoning", json.dumps({"reasoning": "Well. " + told})))

    return reply


def made(tmp_path, endpoint, scenes, folder="data", **more):
    client = Client(endpoint, tmp_path / "cache", concurrency=2, give_up=2)
    recipe = Recipe(KINDS, QuestionSpec(), 1, words=Asked(client, **more))
    works = [Work(c.video_id, lambda c=c: [c]) for c in scenes]
    return pipeline.run(tmp_path / folder, works, None, recipe), client


def test_a_dataset_in_the_words_of_a_model(serve, tmp_path, scenes):
    _, endpoint, _ = serve(answers())
    entries, client = made(tmp_path, endpoint, scenes[:6])
    samples = [s for e in entries.values() for s in e.samples]
    assert samples and client.total("failed") == 0
    for sample in samples:
        assert sample["question"].startswith("Tell me: ")
        assert sample["response"].startswith("<think>Well. ")
        assert sample["provenance"]["reasoning_by"].startswith("eye at http://")
    assert all("toy block" in t["name"] for e in entries.values()
               for d in e.drawing.values() for t in d["tracks"])
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
    assert notes["vlm reasoning: the reply is no JSON object"]
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
    with pytest.raises(Unreachable):
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

    entries, client = made(tmp_path, vlm.Local("ours", content), scenes[:2])
    assert asked and client.total("refused") == 0
    assert any(s["provenance"]["question_by"] == "ours" for e in entries.values()
               for s in e.samples)
    with pytest.raises(InputError, match="unknown .'poetry'."):
        Asked(client, ("poetry",))
