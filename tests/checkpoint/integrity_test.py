"""Checksums of a checkpoint: damage to them is noticed as that of any other file is."""

import pytest
from etils import epath

from fourd4d.checkpoint.integrity import damage, write_checksums
from fourd4d.core.errors import InputError


@pytest.fixture
def step(tmp_path):
    for name in ("state/d/n", "state/other", "data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    write_checksums(epath.Path(tmp_path))
    return epath.Path(tmp_path)


def test_any_flipped_bit_of_the_checksums_is_noticed(step):
    path = step / "checksums.json"
    whole = path.read_bytes()
    assert damage(step) == ""
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            assert damage(step), f"bit {bit}: {bytes(changed)!r}"
        except InputError as error:
            assert "checksums.json" in str(error)
