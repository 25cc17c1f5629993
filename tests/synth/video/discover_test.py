"""Which files are taken, and that no two things are called the same."""

import os

import pytest

from fourd4d.core.errors import InputError
from fourd4d.synth.annotate import _first
from fourd4d.synth.video.discover import find_videos, name_of, named_before, other_names

ODD = ["walk.mp4", "walk.mov", "walk.MP4", "walk_0001.mp4", "a/b.mp4", "a_b.mp4", "a-b.mp4",
       "a/b/c.mp4", "a/b-c.mp4", "walk_0001-412fba68.mp4", "walk-412fba68.mp4", "x y.mp4",
       "x:y.mp4", "x?y.mp4",
       "-x.mp4", "%03d.mp4", "é.mp4", "a.b.mp4", "A.mp4", "walk_0001_0001.mp4",
       "b" * 120 + ".mkv"]


def test_names_and_names_of_clips_are_all_different():
    names = [name_of(path) for path in ODD]
    clips = [name + (f"_{number:04d}" if number else "") for name in names for number in range(3)]
    assert len(set(clips)) == len(clips)
    assert not any(set(name) & set("/:?*\\") or name.startswith((".", "-")) for name in names)
    assert name_of("walk.mp4") == "walk" and name_of("x y.mp4") == "x y"


def test_names_do_not_depend_on_neighbours(tmp_path):
    before = {}
    for path in ODD:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        now = {file: name for name, file in find_videos(tmp_path).items()}
        assert before.items() <= now.items() and len(now) == len(before) + 1
        before = now


def test_links_are_followed_once_and_without_loops(tmp_path):
    for path in ("disk/far.mp4", "in/near.mp4", "in/sub/deep.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    os.symlink(tmp_path / "disk", tmp_path / "in" / "disk")
    os.symlink(tmp_path / "in", tmp_path / "in" / "sub" / "loop")
    os.symlink(tmp_path / "in" / "near.mp4", tmp_path / "in" / "again.mp4")
    os.symlink(tmp_path / "nowhere.mp4", tmp_path / "in" / "broken.mp4")  # Fails by its name.
    os.symlink(tmp_path / "in" / "itself.mp4", tmp_path / "in" / "itself.mp4")
    os.symlink(tmp_path / "in" / "circle", tmp_path / "in" / "circle")
    found = [str(path.relative_to(tmp_path / "in")) for path in
             find_videos(tmp_path / "in").values()]
    assert found == ["broken.mp4", "disk/far.mp4", "itself.mp4", "near.mp4", "sub/deep.mp4"]


def test_an_earlier_versions_names_are_noticed(tmp_path):
    for path in ("a/clip.mp4", "b/clip.mp4", "plain.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert named_before(tmp_path, ["plain"]) is None
    assert named_before(tmp_path, ["plain", "a-clip-mp4"]) == "a-clip-mp4"
    assert named_before(tmp_path, ["clip"]) == "clip"


def test_masks_are_found_by_the_files_own_path_too(tmp_path):
    def find(name):
        if name != "a/clip":
            raise InputError(name, "nothing")
        return name

    path = tmp_path / "a" / "clip.mov"
    assert _first(find, (name_of("a/clip.mov"), *other_names(path, tmp_path))) == "a/clip"
    with pytest.raises(InputError, match="one: nothing"):
        _first(find, ("one", "two"))
