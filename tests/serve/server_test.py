"""The server by OpenAI's own client, and by clients who mean no good."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import io
import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import PIL.Image
import prometheus_client.parser
import pytest
from helpers.bundles import TABLE_CONFIG
from helpers.serving import (
    GARBAGE,
    OPTIONS,
    SPEC,
    body,
    clip,
    content,
    hang_up,
    imagining,
    png,
    running,
)
from helpers.videos import write

from fourd4d.processing.media import Image
from fourd4d.sampling import Engine
from fourd4d.serve.requests import read_latents

DOCS = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
QUESTIONS = ["Which way?", "Where does it go?", "Is it?", "How far from the camera is the cube?",
             "x"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("root")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def long(server):
    """A clip and a question whose answer fills the budget and imagines something."""
    return next((clip(seed), question) for seed in range(7) for question in QUESTIONS
                if (said := server.thinker.answer(clip(seed), question, OPTIONS, max_tokens=48))
                and said.truncated and len(said.latents))


@pytest.fixture
def slowly(monkeypatch):
    """Decodes a few tokens a second."""
    run = Engine.run

    def slow(self, turns=None, waiting=False):
        time.sleep(0.1)
        return run(self, turns=1, waiting=waiting)

    monkeypatch.setattr(Engine, "run", slow)


def ask(client, video, question, own=None, **more):
    return client.chat.completions.create(
        model="eye", messages=[{"role": "user", "content": content(video, question)}],
        extra_body={"fourd4d": {"options": OPTIONS} | (own or {})}, **more)


def own(choice):
    return choice.model_extra["fourd4d"]


def post(server, value, **headers):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return httpx.post(f"{server.url}/chat/completions", content=data, timeout=120,
                      headers={"content-type": "application/json"} | headers)


def check_answer(server, choice, want):
    assert choice.message.content == want.text
    assert own(choice)["letter"] == want.letter
    assert choice.finish_reason == ("length" if want.truncated else "stop")
    latents = [read_latents(image["latents"], "latents")
               for image in own(choice)["mental_images"]]
    got = np.concatenate(latents) if latents else np.zeros((0, want.latents.shape[1]))
    np.testing.assert_allclose(got, want.latents, atol=2e-3)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["eye"]
    assert client.models.retrieve("eye").owned_by == "fourd4d"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert refused.value.code == "model_not_found" and refused.value.param == "model"


def test_the_example_of_the_docs_runs(server, tmp_path, monkeypatch, capsys):
    write(tmp_path / "clip.mp4", list(clip(0).frames), fps=2)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("http://127.0.0.1:8000/v1") == code.count("tiny-base") == 1
    exec(code.replace("http://127.0.0.1:8000/v1", server.url).replace("tiny-base", "eye"), {})
    options = ["Left", "Right", "Up", "Down"]
    want = server.thinker.answer(tmp_path / "clip.mp4", "Where does the red cube go?", options,
                                 max_tokens=48)
    assert capsys.readouterr().out == f"{want.text} {want.letter}\n"


def test_greedy_answers_are_those_of_answer(server, client):
    imagined = 0
    for seed, question in enumerate(QUESTIONS):
        video = clip(seed)
        want = server.thinker.answer(video, question, OPTIONS, max_tokens=48)
        choice = ask(client, video, question, {"latents": True}).choices[0]
        check_answer(server, choice, want)
        imagined += len(want.latents)
    assert imagined > 8


@pytest.mark.slow
def test_the_family_with_times_as_text_is_served(tmp_path):
    """Its video's pixels are bounded together, and its features hold DeepStack's."""
    small = dataclasses.replace(SPEC, slots=2)
    with running(tmp_path, small, imagining(TABLE_CONFIG)) as server, openai.OpenAI(
            base_url=server.url, api_key="any", max_retries=0, timeout=120) as client:
        test_greedy_answers_are_those_of_answer(server, client)


def test_a_stream_joins_to_the_same(server, client, long):
    video, question = long
    want = server.thinker.answer(video, question, OPTIONS, max_tokens=48)
    parts = list(ask(client, video, question, {"latents": True}, stream=True,
                     stream_options={"include_usage": True}))
    said = [part.choices[0].delta.content for part in parts if part.choices]
    assert "".join(text or "" for text in said) == want.text
    assert sum(bool(text) for text in said) > 2
    last = [part.choices[0] for part in parts if part.choices][-1]
    assert last.finish_reason == ("length" if want.truncated else "stop")
    latents = [read_latents(image["latents"], "") for image in own(last)["mental_images"]]
    np.testing.assert_allclose(np.concatenate(latents), want.latents, atol=2e-3)
    usage = parts[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 50


def test_pictures_and_video_files_come_by_data_url_and_by_path(server, client):
    frames = [np.asarray(frame) for frame in clip(7, frames=6, side=48).frames]
    path = write(server.root / "clip.mp4", frames, fps=2)
    want = server.thinker.answer(path, "Which way?", OPTIONS, max_tokens=16)
    data = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    for url in (data, "file:clip.mp4", path.as_uri()):
        for form in ({"url": url}, url):
            reply = client.chat.completions.create(
                model="eye", max_tokens=16, extra_body={"fourd4d": {"options": OPTIONS}},
                messages=[{"role": "user", "content": [
                    {"type": "video_url", "video_url": form},
                    {"type": "text", "text": "Which way?"}]}])
            assert reply.choices[0].message.content == want.text
    pixels = frames[0]
    want = server.thinker.answer([Image(pixels), Image(pixels[:, ::-1])], "Which way?",
                                 max_tokens=16)
    reply = client.chat.completions.create(
        model="eye", max_tokens=16, messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": png(pixels), "detail": "high"}},
            {"type": "image_url", "image_url": {"url": png(pixels[:, ::-1])}},
            {"type": "text", "text": "Which way?"}]}])
    assert reply.choices[0].message.content == want.text
    assert own(reply.choices[0])["letter"] is None


def test_each_request_draws_in_its_own_way(server, client):
    video = clip(2)
    for options in ({"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "seed": 4}):
        want = server.thinker.answer(video, "Which way?", OPTIONS, max_tokens=24, **options)
        got = ask(client, video, "Which way?", max_tokens=24, n=2, **options).choices
        assert got[0].message.content == want.text
        assert [choice.index for choice in got] == [0, 1]
        assert got[1].message.content != want.text
    want = server.thinker.answer(video, "Which way?", OPTIONS, max_tokens=24, imagery=False)
    got = ask(client, video, "Which way?", {"imagery": False}, max_tokens=24).choices[0]
    assert got.message.content == want.text and own(got)["mental_images"] == []
    free = {ask(client, video, "Which way?", max_tokens=24, temperature=1.5).choices[0]
            .message.content for _ in range(3)}
    assert len(free) > 1


def test_mental_images_are_painted_over_frames(server, client):
    video = clip(0)
    for which, slots in (("all", [0, 1, 2]), ("peak", None), (True, None)):
        images = own(ask(client, video, QUESTIONS[0], {"heat_maps": which}).choices[0])[
            "mental_images"]
        assert images and "latents" not in images[0]
        for image in images:
            maps = image["heat_maps"]
            assert [heat["slot"] for heat in maps] == slots or (not slots and len(maps) == 1)
            for heat in maps:
                assert heat["time"] == float(heat["slot"])  # Two frames of half a second a slot.
                picture = PIL.Image.open(io.BytesIO(base64.b64decode(heat["png"].split(",")[1])))
                assert picture.format == "PNG" and picture.size == (256, 256)
                assert np.asarray(picture).std() > 5
            if slots is None:
                continue
            assert max(heat["peak"] for heat in maps) > min(heat["peak"] for heat in maps)


def test_probes_change_what_is_fed_and_the_own_latents_nothing(client, long):
    video, question = long
    natural = ask(client, video, question, {"latents": True}).choices[0]
    mine = np.concatenate([read_latents(image["latents"], "")
                           for image in own(natural)["mental_images"]])

    def fed(probe):
        return ask(client, video, question, {"probe": probe}).choices[0].message.content

    def packed(array):
        return {"dtype": "float16", "shape": list(array.shape),
                "data": base64.b64encode(array.astype("<f2").tobytes()).decode()}

    assert fed({"kind": "swap", "latents": packed(mine)}) == natural.message.content
    for probe, want in (({"kind": "swap", "latents": packed(-mine)}, -mine), ("zero", 0 * mine)):
        reply = ask(client, video, question, {"probe": probe, "latents": True}).choices[0]
        given = np.concatenate([read_latents(image["latents"], "")
                                for image in own(reply)["mental_images"]])
        np.testing.assert_array_equal(given[: len(want)], want[: len(given)])


def test_a_conversation_goes_on(server, client):
    def said(*messages):
        return client.chat.completions.create(model="eye", messages=list(messages), max_tokens=12)

    first = {"role": "user", "content": content(clip(1), "Which way?")}
    reply = said(first).choices[0].message.content
    more = said(first, {"role": "assistant", "content": reply}, {"role": "user", "content": "Why?"})
    alone = said({"role": "user", "content": "Why?"})
    assert more.usage.prompt_tokens > alone.usage.prompt_tokens + 8
    assert more.choices[0].message.content != alone.choices[0].message.content
    ordered = said({"role": "system", "content": "Be brief."}, first)
    assert ordered.usage.prompt_tokens != said(first).usage.prompt_tokens


def test_a_stop_text_ends_the_response_early(client, long):
    whole = ask(client, *long).choices[0].message.content
    stop = whole[len(whole) // 3 : len(whole) // 3 + 4]
    want = whole[: whole.index(stop)]
    reply = ask(client, *long, stop=[stop, "never said"])
    assert reply.choices[0].message.content == want and reply.choices[0].finish_reason == "stop"
    parts = ask(client, *long, stop=stop, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == want


def test_garbage_is_refused_in_words_and_changes_nothing(server, client):
    for value in GARBAGE:
        reply = post(server, value)
        error = reply.json()["error"]
        assert 400 <= reply.status_code < 500, (value, reply.text)
        assert error["type"] and len(error["message"]) < 600 and "\n" not in error["message"]
        assert not re.search(r"Error|Traceback|tmp/", error["message"]), error
    assert server.worker.load == (0, 0) and server.service._open == 0
    test_greedy_answers_are_those_of_answer(server, client)


def test_other_paths_and_methods_are_refused_alike(server):
    base = server.url.removesuffix("/v1")
    for method, path, status in (("GET", "/v1/chat/completions", 405), ("GET", "/v2", 404),
                                 ("POST", "/v1/models", 405), ("GET", "/../../etc/passwd", 404)):
        reply = httpx.request(method, base + path)
        assert reply.status_code == status and reply.json()["error"]["message"]
    assert httpx.get(base + "/health", headers={"host": "evil.example"}).status_code == 400
    # What a page elsewhere can send without being asked first.
    assert post(server, body(clip(0), "x"), **{"content-type": "text/plain"}).status_code == 415


def test_limits_are_told(server, client, tmp_path):
    too_long = b'{"messages": "' + b"x" * SPEC.max_body
    assert post(server, too_long).status_code == 413

    def chunks():
        for _ in range(40):
            yield b" " * 10_000

    # A server that refuses a body may close before all of it was sent.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        reply = httpx.post(f"{server.url}/chat/completions", content=chunks(),
                           headers={"content-type": "application/json"})
        assert reply.status_code == 413
    long = write(server.root / "long.mp4", [np.zeros((32, 32, 3), np.uint8)] * 12, fps=1)
    large = write(server.root / "large.mp4", [np.zeros((256, 256, 3), np.uint8)] * 8, fps=2)
    picture = np.zeros((500, 500, 3), np.uint8)
    for part, code in (
        ({"type": "video_url", "video_url": long.as_uri()}, "video_too_long"),
        ({"type": "video_url", "video_url": large.as_uri()}, "too_many_pixels"),
        ({"type": "image_url", "image_url": png(picture)}, "too_many_pixels"),
        (content(clip(0, frames=9), "x")[0], "too_many_frames"),
        ({"type": "text", "text": "up " * 2000}, "context_length_exceeded"),
        ({"type": "image_url", "image_url": png(picture[:2, :250])}, "context_length_exceeded"),
    ):
        reply = post(server, {"messages": [{"role": "user", "content": [part]}]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, code), reply.text
    reply = post(server, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": png(picture[:32, :32])}] * 65}]})
    assert reply.json()["error"]["code"] == "too_many_media"


def test_a_request_may_bound_the_frames_picked_of_its_videos(server, client):
    video = write(server.root / "eight.mp4", list(clip(2, frames=8).frames), fps=2)

    def tokens(**more):
        message = [{"type": "video_url", "video_url": {"url": video.as_uri()}},
                   {"type": "text", "text": "x"}]
        return client.chat.completions.create(
            model="eye", messages=[{"role": "user", "content": message}], max_tokens=1,
            extra_body=more).usage.prompt_tokens

    whole, two = tokens(), tokens(media_io_kwargs={"video": {"num_frames": 2}})
    assert (whole - 1) // 4 < two < whole - 8
    assert tokens(media_io_kwargs={"video": {"num_frames": 1000}}) == whole


def test_no_file_outside_the_root_and_no_address_is_read(server, tmp_path):
    secret = write(tmp_path / "secret.mp4", [np.zeros((32, 32, 3), np.uint8)] * 2)
    (server.root / "link.mp4").symlink_to(secret)
    (server.root / "folder").mkdir()
    told = set()
    for url in (secret.as_uri(), "file:../secret.mp4", f"file:{secret}", "file:link.mp4",
                "file:%2e%2e/secret.mp4", "file:folder", "file:", "file:absent.mp4", "file:a%00b",
                "file:///proc/self/environ"):
        reply = post(server, {"messages": [{"role": "user", "content": [
            {"type": "video_url", "video_url": url}]}]})
        assert reply.status_code == 400, url
        told.add(reply.json()["error"]["message"].partition("root")[0])
    assert told == {"messages[0].content[0].video_url: no such file below the server's "}
    for url, status in (("http://127.0.0.1/x.png", 403), ("file://host/clip.mp4", 400)):
        reply = post(server, {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": url}]}]})
        assert reply.status_code == status


def crowd(server, client, clients, rounds):
    """Clients at once, each with questions of its own; every fifth leaves in the middle."""
    wanted = {}
    for number in range(clients):
        video, question = clip(number % 7, frames=2 + number % 5), QUESTIONS[number % 5]
        tokens = 6 + number * 7 % 43
        key = (number % 7, 2 + number % 5, question, tokens)
        wanted[number] = key, server.thinker.answer(video, question, OPTIONS, max_tokens=tokens)

    def one(number):
        (seed, frames, question, tokens), want = wanted[number % clients]
        video = clip(seed, frames=frames)
        if number % 5 == 4:
            hang_up(server.port, body(video, question, stream=bool(number % 2)),
                    0.02 * (number % 9))
            return
        if number % 2:
            parts = list(ask(client, video, question, stream=True, max_tokens=tokens))
            said = "".join(part.choices[0].delta.content or "" for part in parts)
            assert parts[-1].choices[0].finish_reason in ("stop", "length")
        else:
            said = ask(client, video, question, max_tokens=tokens).choices[0].message.content
        assert said == want.text, number

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(one, number) for number in range(clients * rounds)]:
            future.result()
    assert len({want.text for _, want in wanted.values()}) > min(clients, 24) // 3
    server.until(lambda: server.worker.load == (0, 0) and server.service._open == 0)
    assert server.worker._engine.room()


def test_many_clients_at_once_each_get_their_own_answer(server, client):
    crowd(server, client, 12, 1)


@pytest.mark.slow
def test_sixty_four_clients_at_once_each_get_their_own_answer(server, client):
    crowd(server, client, 64, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(server, long, slowly, stream):
    before = server.worker.tokens
    left = server.service.metrics.requests.labels("499")._value.get()
    hang_up(server.port, body(*long, stream=stream, max_tokens=48), after=1.0)
    server.until(lambda: server.worker.load == (0, 0), 3.0)  # To its end were 5 s.
    assert server.worker.tokens - before < 30
    server.until(lambda: server.service._open == 0)
    assert server.service.metrics.requests.labels("499")._value.get() == left + 1


def test_broken_pipes_and_half_requests_do_no_harm(server, client):
    for start in (b"", b"POST /v1/chat", b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                  b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  b"application/json\r\nContent-Length: 500\r\n\r\n{\"mess",
                  b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                  b"Content-Length: -5\r\n\r\n", b"X" * 100_000):
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            try:
                line.sendall(start)
                line.shutdown(socket.SHUT_WR)
            except OSError:
                pass
    server.until(lambda: server.service._open == 0)
    want = server.thinker.answer(clip(0), "x", OPTIONS, max_tokens=8)
    assert ask(client, clip(0), "x", max_tokens=8).choices[0].message.content == want.text


def test_a_full_queue_says_come_back(server, client, slowly, monkeypatch):
    monkeypatch.setattr(server.service, "spec", dataclasses.replace(
        SPEC, slots=1, queue=1))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, client, clip(n), "x", max_tokens=8) for n in range(2)]
        server.until(lambda: server.service._open == 2)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(client, clip(3), "x", max_tokens=8)
        assert refused.value.code == "queue_full"
        assert refused.value.response.headers["retry-after"] == "1"
        assert all(future.result().choices for future in running)
    assert ask(client, clip(3), "x", max_tokens=8).choices


def test_what_takes_too_long_is_ended(server, client, long, slowly, monkeypatch):
    monkeypatch.setattr(server.service, "spec", dataclasses.replace(SPEC, timeout=0.6))
    with pytest.raises(openai.APIStatusError) as late:
        ask(client, *long)
    assert late.value.status_code == 504 and late.value.code == "timeout"
    with pytest.raises(openai.APIError, match="time limit"):
        list(ask(client, *long, stream=True))
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408
    connection.close()
    server.until(lambda: server.worker.load == (0, 0) and server.service._open == 0)


def test_a_failing_engine_begins_its_jobs_anew(server, client, long, monkeypatch):
    run, fails = Engine.run, threading.Event()

    def flaky(self, turns=None, waiting=False):
        if fails.is_set():
            fails.clear()
            raise RuntimeError("planted")
        return run(self, turns=2, waiting=waiting)

    monkeypatch.setattr(Engine, "run", flaky)
    video, question = long
    want = server.thinker.answer(video, question, OPTIONS, max_tokens=48)
    said = []
    for part in ask(client, video, question, stream=True):
        said.append(part.choices[0].delta.content or "")
        if len(said) == 3:
            fails.set()
    assert "".join(said) == want.text and not fails.is_set()
    assert httpx.get(server.url.removesuffix("/v1") + "/health").json() == {"status": "ok"}


def test_metrics_are_prometheus_own(server):
    text = httpx.get(server.url.removesuffix("/v1") + "/metrics").text
    found = {sample.name: sample.value for family in
             prometheus_client.parser.text_string_to_metric_families(text)
             for sample in family.samples}
    assert found["fourd4d_generated_tokens_total"] == server.worker.tokens > 0
    assert found["fourd4d_running"] == found["fourd4d_waiting"] == 0
    assert found["fourd4d_requests_total"] >= 1
