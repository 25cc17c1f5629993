"""Sources and the media behind their rows."""

import dataclasses
import pickle
import threading

import jax
import numpy as np
import PIL.Image
import pytest
from helpers import data as helpers

from fourd4d import data
from fourd4d.core import jsonl
from fourd4d.core.batch import Batch, BatchShape
from fourd4d.core.errors import InputError
from fourd4d.core.sample import Sample
from fourd4d.data.collate import Size, collate
from fourd4d.data.media import (
    decode_media,
    load_media,
    overlay_masks,
    plain_frames,
    row_media,
)
from fourd4d.data.pipeline import PrepareExample, row_size
from fourd4d.processing.media import Image, Video, decode_image, read_image


@pytest.fixture
def stored(tmp_path) -> tuple[Sample, object]:
    value = helpers.sample(0, frames=5)
    helpers.write_files(tmp_path, value)
    return value, tmp_path


def test_frames_keep_their_times_and_pixels(stored):
    value, root = stored
    (video,), overlays = load_media(value, root, helpers.PROTOCOL)
    assert isinstance(video, Video) and video.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    for frame, path in zip(video.frames, value.frames, strict=True):
        np.testing.assert_array_equal(frame, read_image(root / path).pixels)
    assert len(overlays) == 2 and overlays[0].shape == (32, 32, 3)
    assert load_media(value, root, helpers.PROTOCOL, with_overlays=False)[1] == []


def test_long_lists_are_thinned_with_true_times(tmp_path):
    value = helpers.sample(0, frames=13)
    helpers.write_files(tmp_path, value)
    (video,), _ = load_media(value, tmp_path, helpers.PROTOCOL)
    assert len(video.frames) == helpers.PROTOCOL.max_frames
    assert video.timestamps[0] == 0.0 and video.timestamps[-1] == 6.0
    for time, frame in zip(video.timestamps, video.frames, strict=True):
        path = value.frames[value.timestamps.index(time)]
        np.testing.assert_array_equal(frame, read_image(tmp_path / path).pixels)


def test_late_and_uneven_times(tmp_path):
    times = (10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 14.0, 20.0)
    value = dataclasses.replace(helpers.sample(0, frames=8), timestamps=times)
    helpers.write_files(tmp_path, value)
    (video,), _ = load_media(value, tmp_path, helpers.PROTOCOL)
    chosen = video.timestamps.tolist()
    assert chosen[0] == 10.0 and chosen[-1] == 20.0 and set(chosen) <= set(times)
    assert chosen == sorted(set(chosen)) and 14.0 in chosen


def test_times_are_never_assumed_silently(stored):
    value, root = stored
    value = dataclasses.replace(value, timestamps=())
    with pytest.raises(InputError, match="5 frames without timestamps.*assumed_fps"):
        load_media(value, root, helpers.PROTOCOL)
    (video,), _ = load_media(value, root, helpers.PROTOCOL, assumed_fps=4.0)
    assert video.timestamps.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    single = dataclasses.replace(value, frames=value.frames[:1])
    assert isinstance(load_media(single, root, helpers.PROTOCOL)[0][0], Image)


def test_missing_damaged_and_unequal_images(stored):
    value, root = stored
    (root / value.frames[2]).write_bytes(helpers.png(1)[:60])
    with pytest.raises(InputError, match=r"row 7: .*2\.png.*not a readable image"):
        load_media(value, root, helpers.PROTOCOL, where="row 7")
    (root / value.frames[2]).write_bytes(helpers.png(1, side=64))
    with pytest.raises(InputError, match="different sizes"):
        load_media(value, root, helpers.PROTOCOL)
    (root / value.frames[2]).unlink()
    with pytest.raises(InputError, match=r"'clip0/2.png' is missing"):
        load_media(value, root, helpers.PROTOCOL)
    for bad in ("../../etc/passwd", "/etc/passwd"):
        with pytest.raises(InputError, match="leaves the data root"):
            load_media(dataclasses.replace(value, frames=(bad,)), root, helpers.PROTOCOL)
        with pytest.raises(InputError, match="leaves the data root"):
            load_media(dataclasses.replace(value, frames=(), video=bad), root, helpers.PROTOCOL)


def test_video_rows(tmp_path):
    import av

    with av.open(tmp_path / "v.mp4", "w") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 12 * i, np.uint8))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    value = dataclasses.replace(helpers.sample(0), response="", overlays=(), frames=(),
                                timestamps=(), video="v.mp4")
    (video,), overlays = load_media(value, tmp_path, helpers.PROTOCOL)
    np.testing.assert_allclose(video.timestamps, [0, 1, 2, 3], atol=0.11)
    assert overlays == []
    with pytest.raises(InputError, match=r"row 1: .*none\.mp4"):
        load_media(dataclasses.replace(value, video="none.mp4"), tmp_path, helpers.PROTOCOL,
                   where="row 1")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"row 1: .*text\.mp4"):
        load_media(dataclasses.replace(value, video="text.mp4"), tmp_path, helpers.PROTOCOL,
                   where="row 1")


def test_records_hold_the_same_media(tmp_path):
    samples = [helpers.sample(i, frames=3 + 5 * i) for i in range(3)]
    path = helpers.write_dataset(tmp_path / "files", samples)
    helpers.write_records(tmp_path / "records", samples, shards=1)
    files, records = data.open_source(path), data.open_source(tmp_path / "records")
    assert len(files) == len(records) == 3
    for i in range(3):
        (a,), left = row_media(files[i], helpers.PROTOCOL)
        (b,), right = row_media(records[i], helpers.PROTOCOL)
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.timestamps, b.timestamps)
        np.testing.assert_array_equal(left, right)
    broken = dataclasses.replace(records[0].record, frames=(b"x",) * 3)
    with pytest.raises(InputError,
                       match=r"shard:3, image 'clip0/0.png': it is not a readable image"):
        decode_media(broken, helpers.PROTOCOL, where="shard:3")


def test_sources_are_read_by_number_from_threads_and_after_pickling(tmp_path):
    samples = [helpers.sample(i) for i in range(6)]
    path = helpers.write_dataset(tmp_path, samples)
    helpers.write_records(tmp_path / "r", samples, shards=2)
    for source, order in ((data.open_source(path), range(6)),
                          (data.open_source(tmp_path / "r"), (0, 2, 4, 1, 3, 5))):
        assert [source[i].sample for i in range(6)] == [samples[i] for i in order]
        source = pickle.loads(pickle.dumps(source))
        found: dict[int, Sample] = {}

        def read(number: int, source=source, found=found) -> None:
            for i in range(number, 6, 2):
                found[i] = source[i].sample

        threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[i] for i in range(6)] == [samples[i] for i in order]
    assert data.open_source(path)[2].where == f"{path}:3"


def test_bad_sources(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        data.open_source(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no .*array_record file"):
        data.open_source(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no rows"):
        data.open_source(tmp_path / "empty.jsonl")
    rows = [jsonl.dift_row(helpers.sample(i)) for i in range(2)]
    jsonl.write(tmp_path / "bad.jsonl", rows)
    with (tmp_path / "bad.jsonl").open("a") as out:
        out.write("{\n")
    with pytest.raises(InputError, match=r"bad\.jsonl:3: malformed JSON"):
        data.open_source(tmp_path / "bad.jsonl")
    (tmp_path / "x.array_record").write_bytes(b"not a shard" * 9)
    with pytest.raises(InputError, match="no readable ArrayRecord file"):
        data.open_source(tmp_path / "x.array_record")
    (shard,) = helpers.write_records(tmp_path / "cut", [helpers.sample(0)], shards=1)
    shard.write_bytes(shard.read_bytes()[:-70000])
    with pytest.raises(InputError, match="no readable ArrayRecord file"):
        data.open_source(shard)
    (shard,) = helpers.write_records(tmp_path / "rot", [helpers.sample(0)] * 2, shards=1)
    blob = bytearray(shard.read_bytes())
    blob[300:900] = bytes(600)
    shard.write_bytes(blob)
    with pytest.raises(InputError, match=rf"{shard}:0: unreadable"):
        data.open_source(shard)[0]


def test_decoded_bytes_equal_read_files(tmp_path):
    (tmp_path / "a.png").write_bytes(helpers.png(3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels,
                                  decode_image(helpers.png(3)).pixels)


def test_overlays_know_what_they_were_painted_on(tmp_path):
    """From files and from records; by time, not by place among the frames that are kept."""
    value = dataclasses.replace(helpers.sample(0, frames=13), overlay_timestamps=(5.5, 0.5),
                                masks=("clip0/m0.png", "clip0/m1.png"))
    path = helpers.write_dataset(tmp_path, [value])
    for number, name in enumerate(value.masks):
        mask = np.zeros((32, 32), np.uint8)
        mask[number] = 255
        PIL.Image.fromarray(mask).save(tmp_path / name)
    frames = [read_image(tmp_path / value.frames[i]).pixels for i in (11, 1)]
    row = data.open_source(path)[0]
    for found, frame in zip(plain_frames(row), frames, strict=True):
        np.testing.assert_array_equal(found, frame)
    assert [np.flatnonzero(mask.any(1)).tolist() for mask in overlay_masks(row)] == [[0], [1]]
    helpers.write_records(tmp_path / "records", [value], shards=1)
    packed = data.open_source(tmp_path / "records")[0]
    np.testing.assert_array_equal(plain_frames(packed)[1], frames[1])
    with pytest.raises(InputError, match="no masks for the region.*dift.jsonl"):
        overlay_masks(packed)
    for change, what in ((dict(overlay_timestamps=()), "need timestamps"),
                         (dict(overlay_timestamps=(5.5, 0.6)), "0.6 s, the nearest frame is of")):
        changed = dataclasses.replace(row, sample=dataclasses.replace(value, **change))
        with pytest.raises(InputError, match=what):
            plain_frames(changed)


def test_an_example_holds_the_frames_under_its_overlays(tmp_path):
    value = dataclasses.replace(helpers.sample(0), overlay_timestamps=(0.0, 1.0))
    path = helpers.write_dataset(tmp_path, [value])
    processor = helpers.processor(target="difference")
    row = data.open_source(path)[0]
    made = PrepareExample(processor)(row)
    assert Size.of(made) == row_size(row, processor)
    assert made.overlay_slot.tolist() == [2, 3] and made.plain_slot.tolist() == [4, 5]
    first = processor.prompt("", [Image(plain_frames(row)[0])]).slots.patches[0]
    np.testing.assert_array_equal(made.slots.patches[4], first)
    batch = collate([made, made], BatchShape(1, 2 * made.length, 14, 1, 5), processor.protocol,
                    pack=True)
    assert batch.overlays.slot[0].tolist() == [2, 3, 8, 9, -1]
    assert batch.overlays.plain[0].tolist() == [4, 5, 10, 11, -1]
    spec = Batch.spec(BatchShape(1, 2 * made.length, 14, 1, 5), processor.protocol)
    assert jax.tree.structure(spec) == jax.tree.structure(batch)
    with pytest.raises(InputError, match="0 for 2 overlays"):
        processor.example("Q?", [], value.response, [np.zeros((32, 32, 3), np.uint8)] * 2)
    with pytest.raises(InputError, match="must have one size"):
        processor.example("Q?", [], value.response, [np.zeros((32, 32, 3), np.uint8)] * 2,
                          plains=[np.zeros((64, 32, 3), np.uint8)] * 2)
    assert PrepareExample(processor, imagery=False)(row).plain_slot.size == 0
