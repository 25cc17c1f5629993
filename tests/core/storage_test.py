"""Paths in a bucket, against a server on loopback; and what is refused without one."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.bucket import bucket, copy_to  # noqa: F401
from helpers.data import PROTOCOL, sample, write_dataset, write_records

from fourd4d.checkpoint import CheckpointManager, processor_dir, restore_params
from fourd4d.checkpoint.integrity import NAME as CHECKSUMS
from fourd4d.core import journal, storage
from fourd4d.core.errors import InputError
from fourd4d.core.files import read_object, replacing
from fourd4d.core.storage import as_path, check_writable, local_copy, local_file, local_only
from fourd4d.data import open_source
from fourd4d.data.media import row_media
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.train.writer import JSONL, MetricWriter

ROWS = journal.Layout("a test's journal", header="name")


@pytest.mark.parametrize("text, what", [
    ("s3://bucket/run", "s3:// paths cannot be used"), ("gcs://bucket", "cannot be used"),
    ("gs://", "names no bucket"), ("gs:///run", "names no bucket")])
def test_other_places_are_refused(text, what):
    with pytest.raises(InputError, match=what):
        as_path(text)


def test_without_a_library_for_buckets_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    storage._bucket_path.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'fourd4d\[gcs\]'"):
        as_path("gs://runs/a")


def test_local_names_stay_what_they_are(tmp_path):
    for name in ("a/b", "gs:/a", "exp://x", "~/x"):
        assert os.fspath(as_path(name)) == os.path.normpath(name)
    assert local_copy(tmp_path) == tmp_path and local_only(tmp_path, "it") == tmp_path
    check_writable(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_commands_that_write_many_files_refuse_a_bucket(bucket):
    with pytest.raises(InputError, match="an export cannot lie in a bucket"):
        local_only(f"{bucket}/x", "an export")


def test_a_bucket_that_is_not_there_is_told_before_the_run(bucket):
    check_writable(f"{bucket}/run")
    assert not as_path(f"{bucket}/run").exists()
    with pytest.raises(InputError, match="gs://absent/run: nothing can be written there"):
        check_writable("gs://absent/run")


def test_files_appear_whole_or_not_at_all(bucket):
    path = as_path(f"{bucket}/whole/value.json")
    with replacing(path) as draft:
        draft.write_text('{"a": 1}')
        assert not path.exists()
    assert read_object(path, "") == {"a": 1}
    with pytest.raises(RuntimeError), replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert read_object(path, "") == {"a": 1}
    with pytest.raises(InputError, match="no such file"):
        read_object(f"{bucket}/whole/absent.json", "")


def test_a_journal_goes_on_and_is_one_writers(bucket):
    path = f"{bucket}/journal/rows.jsonl"
    with journal.Journal(path, ROWS, {"name": "x"}) as rows:
        rows.append({"step": 1})
        rows.append({"step": 2})
    with journal.Journal(path, ROWS, {"name": "x"}) as rows:
        assert rows.rows == [{"step": 1}, {"step": 2}]
        rows.keep_only(lambda row: row["step"] < 2)
        rows.append({"step": 3})
        rows.flush(now=True)
        assert journal.read(path, ROWS) == ({"name": "x"}, [{"step": 1}, {"step": 3}])
        as_path(path).write_bytes(b"other")
        rows.append({"step": 4})
        with pytest.raises(InputError, match="another process writes there"):
            rows.flush(now=True)
        as_path(path).unlink()
        rows._mirror._left = None
    with pytest.raises(InputError, match="belongs to another run"):
        journal.Journal(path, ROWS, {"name": "y"})


def test_metrics_are_sent_when_asked_and_dropped_when_repeated(bucket):
    folder = f"{bucket}/metrics"
    with MetricWriter(folder) as writer:
        for step in (1, 2, 3):
            writer.write_scalars(step, {"loss": step / 2})
        writer.flush(now=True)
        sent = as_path(f"{folder}/{JSONL}").read_text().splitlines()
        assert len(sent) == 3
        assert [p.name for p in as_path(folder).iterdir() if "tfevents" in p.name]
    with MetricWriter(folder, 3) as writer:
        writer.write_scalars(3, {"loss": 9.0})
    lines = as_path(f"{folder}/{JSONL}").read_text().splitlines()
    assert lines == [*sent[:2], '{"step": 3, "loss": 9.0}']


def test_rows_and_images_are_read_and_stay_below_their_root(bucket, tmp_path):
    path = write_dataset(tmp_path, [sample(i, frames=2) for i in range(3)])
    copy_to(tmp_path, f"{bucket}/data")
    here, there = open_source(path), open_source(f"{bucket}/data/{path.name}")
    assert there.fingerprint() == here.fingerprint() and there.where(1) == (
        f"{bucket}/data/{path.name}:2")
    for row, same in zip(here, there, strict=True):
        (video,), overlays = row_media(row, PROTOCOL)
        (other,), others = row_media(same, PROTOCOL)
        np.testing.assert_array_equal(video.frames, other.frames)
        np.testing.assert_array_equal(overlays, others)
    with pytest.raises(InputError, match="leaves the data root"):
        storage_inside(f"{bucket}/data", "../secret.png")
    as_path(f"{bucket}/data/clip0/0.png").unlink()
    with pytest.raises(InputError, match=f"is missing below {bucket}/data"):
        row_media(there[0], PROTOCOL)


def storage_inside(root, path):
    from fourd4d.core.jsonl import inside

    return inside(root, path, "row")


def test_shards_are_read_through_a_copy(bucket, tmp_path):
    write_records(tmp_path, [sample(i, frames=2) for i in range(3)])
    copy_to(tmp_path, f"{bucket}/shards")
    here, there = open_source(tmp_path), open_source(f"{bucket}/shards")
    assert there.fingerprint() == here.fingerprint()
    assert [row.sample for row in there] == [row.sample for row in here]
    assert there.where(0).startswith(f"{bucket}/shards/")


def test_a_copy_is_made_anew_when_the_file_changed(bucket):
    path = as_path(f"{bucket}/copies/x.bin")
    path.write_bytes(b"one")
    first = local_copy(path)
    assert local_copy(path) == first and first.read_bytes() == b"one"
    path.write_bytes(b"three")
    assert local_copy(path).read_bytes() == b"three"
    with local_file(path) as file:
        assert file.read_bytes() == b"three"
    assert not file.exists()
    with pytest.raises(InputError, match="no such file or folder"):
        local_copy(f"{bucket}/copies/absent")


def test_maps_come_back(bucket):
    store = MapStore(f"{bucket}/maps")
    assert store.load("a") == []
    store.save("a", [np.ones((2, 1, 1, 2, 2), np.float32)])
    assert store.load("a")[0].shape == (2, 1, 1, 2, 2)


def test_checkpoints_are_kept_checked_and_restored(bucket):
    folder = f"{bucket}/run/checkpoints"
    state = {"params": {"w": jnp.arange(6.0)}, "step": jnp.int32(1)}

    def processor(target):
        with open(os.path.join(target, "words.json"), "w") as out:
            out.write("{}")

    with CheckpointManager(folder, keep=2, processor=processor) as manager:
        for step in (1, 2, 3):
            manager.save(step, jax.tree.map(lambda x, by=step: x * by, state), specs={"at": step})
    with CheckpointManager(folder, keep=2) as manager:
        assert manager.steps() == [2, 3]
        found = manager.restore(state)
    assert found.step == 3 and found.specs == {"at": 3}
    np.testing.assert_array_equal(found.state["params"]["w"], 3 * np.arange(6.0))
    got = restore_params(folder, state["params"], step=2)
    np.testing.assert_array_equal(got["w"], 2 * np.arange(6.0))
    assert (processor_dir(folder) / "words.json").read_text() == "{}"
    step = as_path(folder) / "3"
    assert all(crc is None for _, crc in read_object(step / CHECKSUMS, "").values())
    name = next(n for n in read_object(step / CHECKSUMS, "") if "/d/" in n)
    (step / name).unlink()
    with pytest.raises(InputError, match=f"{folder}/3: the checkpoint is damaged .*is missing"):
        restore_params(folder, state["params"])


def test_checkpoints_that_cannot_be_written_are_told_at_the_start(bucket, monkeypatch):
    with pytest.raises(InputError, match="gs://absent/run: nothing can be written there"):
        CheckpointManager("gs://absent/run")
    monkeypatch.setenv("TENSORSTORE_GCS_BACKEND", "no_such_driver")
    with pytest.raises(InputError, match="TensorStore cannot use it"):
        CheckpointManager(f"{bucket}/run2")
