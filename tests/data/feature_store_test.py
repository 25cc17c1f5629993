"""Features on disk: found again, bounded, whole after a kill, of one encoder."""

import json

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.data import feature_store
from fourd4d.data.feature_store import FeatureStore

KEYS = [bytes([i]) * feature_store.KEY for i in range(8)]
SHAPE = (3, 2)


def value(number, dtype=np.float32):
    return np.random.default_rng(number).standard_normal(SHAPE).astype(dtype)


def store(folder, most=1 << 30, dtype="float32", **about):
    return FeatureStore(folder, {"weights": "a", **about}, SHAPE, dtype, most)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_put_comes_back_bit_for_bit(tmp_path, dtype):
    import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 by it)

    with store(tmp_path, dtype=dtype) as first:
        first.put({key: value(i, dtype) for i, key in enumerate(KEYS[:3])})
        assert set(first.get(KEYS)) == set(KEYS[:3])  # Before it is written, too.
    with store(tmp_path, dtype=dtype) as again:
        assert len(again) == 3
        again.put({KEYS[3]: value(3, dtype), KEYS[0]: value(9, dtype)})
    found = store(tmp_path, dtype=dtype).get([*KEYS, KEYS[0]])
    assert set(found) == set(KEYS[:4])
    for i, key in enumerate(KEYS[:4]):
        np.testing.assert_array_equal(found[key], value(i, dtype))


def test_files_are_written_as_they_fill(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_FILE", 2 * value(0).nbytes)
    killed = store(tmp_path)
    for i, key in enumerate(KEYS[:5]):
        killed.put({key: value(i)})
    assert set(store(tmp_path).get(KEYS)) == set(KEYS[:4])
    assert not list(tmp_path.glob(".*"))


def test_it_takes_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_FILE", 0)
    with store(tmp_path) as free:
        free.put({KEYS[0]: value(0)})

    def size():
        return sum(file.stat().st_size for file in tmp_path.glob("*.array_record"))

    most = 5 * size()
    with store(tmp_path, most=most) as bounded:
        bounded.put({key: value(i) for i, key in enumerate(KEYS)})
    assert size() <= most
    assert set(store(tmp_path).get(KEYS)) == set(KEYS[:3])


def test_a_broken_file_is_left_out_and_named(tmp_path, caplog):
    with store(tmp_path) as first:
        first.put({KEYS[0]: value(0)})
    (file,) = tmp_path.glob("*.array_record")
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level("WARNING"):
        assert store(tmp_path).get(KEYS) == {}
    assert file.name in caplog.text


def test_features_of_another_encoder_are_refused(tmp_path):
    with store(tmp_path):
        pass
    with pytest.raises(InputError, match="of another encoder"):
        store(tmp_path, weights="b")
    about = tmp_path / "about.json"
    assert json.loads(about.read_text())["weights"] == "a"
    for text in ("{", "[]", '{"a": 1' + "0" * 400 + "}", '{"a": ' + "[" * 100_000):
        about.write_text(text)
        with pytest.raises(InputError, match=r"about.json: .*config.data.feature_cache"):
            store(tmp_path)
    about.write_text("{")
    with pytest.raises(InputError, match="malformed JSON"):
        store(tmp_path)
