"""The loop: order of events, late metrics, NaN, SIGTERM, files."""

import errno
import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from fourd4d.core.errors import InputError
from fourd4d.core.metrics import Mean
from fourd4d.train import Every, MetricWriter, NonFiniteError, run
from fourd4d.train.progress import Progress
from fourd4d.train.writer import JSONL


class Source:
    """Counts what was drawn, as a data iterator's position would."""

    def __init__(self, length=100):
        self.drawn, self.length = 0, length

    def __iter__(self):
        return self

    def __next__(self):
        if self.drawn == self.length:
            raise StopIteration
        self.drawn += 1
        return self.drawn


def update(state, batch):
    return state + batch, {"loss": Mean(jnp.float32(2.0 * batch), jnp.float32(2.0)),
                           "rate": jnp.float32(0.5)}


def rows(directory):
    return [json.loads(line) for line in (directory / JSONL).read_text().splitlines()]


@pytest.fixture
def writer(tmp_path):
    with MetricWriter(tmp_path) as writer:
        yield writer


def loop(writer, source=None, step=update, **changes):
    kwargs = dict(first=0, total=6, writer=writer, show=False)
    return run(0, step, source or Source(), **{**kwargs, **changes})


def test_runs_to_the_end_and_writes_means(writer, tmp_path):
    out = loop(writer, log_every=2, tokens=lambda batch: 10)
    assert (out.state, out.step, out.reason) == (21, 6, "finished")
    got = rows(tmp_path)
    assert [r["step"] for r in got] == [2, 4, 6]
    assert [r["loss"] for r in got] == [1.5, 3.5, 5.5]  # Fresh means: nothing of earlier intervals.
    assert all(r["rate"] == 0.5 for r in got)
    assert got[1]["tokens_per_second"] == pytest.approx(10 / got[1]["seconds_per_step"], rel=1e-6)


def test_a_last_partial_interval_is_written(writer, tmp_path):
    loop(writer, total=5, log_every=2)
    assert [(r["step"], r["loss"]) for r in rows(tmp_path)] == [(2, 1.5), (4, 3.5), (5, 5.0)]


def test_metrics_are_read_one_step_late(writer):
    events = []

    def step(state, batch):
        events.append(f"step {batch}")
        return state, {"loss": Mean(jnp.float32(batch), jnp.float32(1.0))}

    writer.write_scalars = lambda at, scalars: events.append(f"write {at}")
    loop(writer, step=step, total=3)
    assert events == ["step 1", "step 2", "write 1", "step 3", "write 2", "write 3"]


def test_saving_comes_before_the_next_draw(writer):
    source, saved = Source(), []
    loop(writer, source, save=lambda at, state: saved.append((at, state, source.drawn)),
         save_every=2, total=5)
    assert saved == [(2, 3, 2), (4, 10, 4), (5, 15, 5)]


def test_resuming_goes_on_where_it_stopped(writer):
    source = Source()
    source.drawn = 4
    out = run(10, update, source, first=4, total=6, writer=writer, show=False)
    assert (out.state, out.step) == (10 + 5 + 6, 6)
    again = run(out.state, update, source, first=6, total=6, writer=writer, show=False)
    assert again.state == out.state and source.drawn == 6


def test_the_end_of_data_saves_and_says_so(writer):
    saved = []
    out = loop(writer, Source(3), save=lambda at, state: saved.append(at), save_every=2)
    assert (out.step, out.reason, saved) == (3, "end of data", [2, 3])


def test_hooks_run_on_their_steps_and_at_the_end(writer):
    seen = []
    loop(writer, total=5, hooks=[
        Every(2, lambda at, state: seen.append(("a", at, state))),
        Every(2, lambda at, state: seen.append(("b", at, state)), last=True),
        Every(0, lambda at, state: seen.append(("c", at, state)), last=True),
    ])
    assert seen[:4] == [("a", 2, 3), ("b", 2, 3), ("a", 4, 10), ("b", 4, 10)]
    assert seen[4:] == [("b", 5, 15), ("c", 5, 15)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stops_the_run_by_name_and_is_not_saved(writer, tmp_path, bad):
    saved = []

    def step(state, batch):
        return state + batch, {"text_loss": jnp.float32(bad if batch == 4 else 1.0),
                               "cosine": jnp.float32(0.25)}

    with pytest.raises(NonFiniteError, match="step 4: text_loss not finite.*'cosine': 0.25") as e:
        loop(writer, step=step, save=lambda at, state: saved.append(at), save_every=2)
    assert (e.value.step, e.value.names) == (4, ["text_loss"])
    assert saved == [2]
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]


def test_sigterm_finishes_the_step_saves_and_leaves(writer, tmp_path):
    saved, ends = [], []
    before = signal.getsignal(signal.SIGTERM)

    def step(state, batch):
        if batch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(state, batch)

    out = loop(writer, step=step, save=lambda at, state: saved.append((at, state)),
               hooks=[Every(0, lambda at, state: ends.append(at), last=True)])
    assert (out.step, out.reason) == (3, "preempted")
    assert saved == [(3, 6)] and ends == []
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_is_said_clearly(writer):
    def save(at, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="checkpoint of step 2: no space left on the disk"):
        loop(writer, save=save, save_every=2)


def test_another_disk_error_passes(writer):
    def save(at, state):
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        loop(writer, save=save, save_every=2)


def test_event_files_are_readable(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write_scalars(3, {"loss": np.float32(0.5)})
        writer.write_texts(3, {"sample": "<think>…</think>"})
    from tensorboardX.proto.event_pb2 import Event

    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:  # Length (8), its checksum (4), the event, its checksum (4).
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = {v.tag: (e.step, v) for e in events for v in e.summary.value}
    assert values["loss"][0] == 3 and values["loss"][1].simple_value == 0.5
    assert any(tag.startswith("sample") for tag in values)
    assert rows(tmp_path)[0] == {"step": 3, "loss": 0.5}
    assert rows(tmp_path)[1] == {"step": 3, "sample": "<think>…</think>"}


def test_a_resumed_run_drops_what_it_repeats(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write_scalars(step, {"loss": 1.0})
    with (tmp_path / JSONL).open("a") as file:
        file.write('{"step": 4, "lo')  # Killed while writing.
    with MetricWriter(tmp_path, start=3) as writer:
        writer.write_scalars(3, {"loss": 2.0})
    assert [(r["step"], r["loss"]) for r in rows(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_workdir_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no directory to write to"):
        MetricWriter(tmp_path / "file" / "run")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_step_and_its_numbers(terminal):
    import io

    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with Progress("dift", 0, 9, console=console) as progress:
        progress.update(3, {"loss": 0.12345, "grad_norm": 1.0})
    assert "dift" in text.getvalue() and "3/9" in text.getvalue()
    assert "loss 0.1235" in text.getvalue()


@pytest.mark.parametrize("name", ["exp[lr=1e-4]", "gs:", "a b#%?*", "ü"])
def test_metrics_are_written_to_folders_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with MetricWriter(name) as writer:
        writer.write_scalars(1, {"loss": 2.0})
    assert json.loads((tmp_path / name / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.0}
    assert [p for p in (tmp_path / name).iterdir() if p.name.startswith("events")]
