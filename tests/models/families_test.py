"""Adding a family is one folder: nothing outside ``models`` knows the name of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fourd4d
from fourd4d.core.errors import InputError
from fourd4d.models import families

ROOT = Path(fourd4d.__file__).parent


def test_no_family_is_named_outside_models():
    name = re.compile("qwen", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] != "models"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if name.search(line) and "Published(" not in line]  # Others' results, by their names.
    assert not found, "\n".join(found)


def test_every_family_offers_all_that_is_asked_of_one():
    for name, kin in families._FAMILIES.items():
        assert isinstance(families.family(name, "here"), families.Family), name
        assert kin.__name__.endswith(name)


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(InputError, match="here: model_type 'llava' is not a known fam"):
        families.family("llava", "here")
