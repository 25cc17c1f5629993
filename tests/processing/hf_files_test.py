"""Preprocessor files of every release of transformers: each number taken, or refused by name."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.models.qwen2_5_vl import CLASSES
from fourd4d.processing import Processor, hf_files, load_processor, tiny_tokenizer
from fourd4d.processing.media import Image, MediumShape, Video

MODEL = ProtocolSpec(patch_size=8, window=32)
CLIP = [0.48145466, 0.4578275, 0.40821073]
COMMON = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": CLIP, "image_std": [0.26862954, 0.26130258, 0.27577711], "merge_size": 2,
    "patch_size": 8, "resample": 3, "rescale_factor": 1 / 255, "temporal_patch_size": 2,
}
IMAGE = COMMON | {"image_processor_type": "Qwen2VLImageProcessor",
                  "size": {"longest_edge": 4096, "shortest_edge": 1024}}
VIDEO = COMMON | {  # What transformers 5.24 writes, its own defaults too.
    "video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False, "max_frames": 768,
    "max_video_tokens": 128000, "min_frames": 4, "return_metadata": False,
    "size": {"longest_edge": 16384, "shortest_edge": 2048}}
UNSET = dict.fromkeys(("crop_size", "do_center_crop", "do_pad", "fps", "max_pixels", "min_pixels",
                       "num_frames", "size_divisor"))  # 4.5x writes these as null.


def write(directory, image=None, video=None, nested=True, **files):
    """The files of transformers 5 (``nested``), or those of 4.52 to 4.57."""
    if nested:
        files["processor_config"] = {"processor_class": "Qwen2_5_VLProcessor"} | {
            name: part for name, part in (("image_processor", image), ("video_processor", video))
            if part is not None}
    else:
        files |= {"preprocessor_config": image} | (
            {"video_preprocessor_config": video} if video is not None else {})
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


def read(directory):
    return hf_files.read_protocol(directory, MODEL)


def bounds(protocol):
    return protocol.pixel_bounds("image"), protocol.pixel_bounds("video")


@pytest.mark.parametrize("nested", [True, False])
def test_images_and_videos_have_each_their_own_size(tmp_path, nested):
    extra = {} if nested else UNSET
    protocol = read(write(tmp_path, IMAGE | extra, VIDEO | extra, nested))
    assert bounds(protocol) == ((1024, 4096), (2048, 16384))
    plain = dataclasses.replace(MODEL, min_pixels=1024, max_pixels=4096)
    assert protocol == dataclasses.replace(plain, min_pixels=2048, max_pixels=16384,
                                           image_min_pixels=1024, image_max_pixels=4096)
    same = VIDEO | extra | {"size": IMAGE["size"]}
    assert read(write(tmp_path, IMAGE | extra, same, nested)) == plain


def test_one_size_serves_both_where_videos_have_none(tmp_path):
    assert bounds(read(write(tmp_path, IMAGE, nested=False))) == ((1024, 4096),) * 2
    bare = {k: v for k, v in VIDEO.items() if k != "size"}
    assert bounds(read(write(tmp_path, IMAGE, bare, nested=False))) == ((1024, 4096),) * 2


def test_the_nested_section_goes_before_the_file_of_its_own(tmp_path):
    stale = {"size": {"longest_edge": 2048, "shortest_edge": 512}}
    directory = write(tmp_path, IMAGE, VIDEO, preprocessor_config=IMAGE | stale,
                      video_preprocessor_config=VIDEO | stale)
    assert bounds(read(directory)) == ((1024, 4096), (2048, 16384))
    write(directory)  # A processor_config.json without sections, as 4.5x writes.
    assert bounds(read(directory)) == ((512, 2048),) * 2


def test_frames_are_resized_to_the_bounds_of_their_kind(tmp_path):
    protocol = read(write(tmp_path, IMAGE, VIDEO))
    processor = Processor(tiny_tokenizer(), protocol)
    big = np.zeros((256, 256, 3), np.uint8)
    media = [Image(big), Video(big[None].repeat(2, 0), np.arange(2.0))]
    example = processor.prompt("Which?", media)
    fed = [int((example.tokens == processor.tokenizer.id(f"<|{kind}_pad|>")).sum())
           for kind in ("image", "video")]
    assert fed == [4096 // 16**2, 16384 // 16**2]
    shapes = [MediumShape("image", 1, 256, 256), MediumShape("video", 2, 256, 256)]
    assert processor.size("Which?", shapes)[0] == len(example.tokens)


@pytest.mark.parametrize("size, both", [
    ({"min_pixels": 1024, "max_pixels": 4096, "size": None}, (1024, 4096)),
    ({"size": {"min_pixels": 1024, "max_pixels": 4096}}, (1024, 4096)),
    ({"min_pixels": 256, "size": {"shortest_edge": 1024, "longest_edge": 4096}}, (256, 4096)),
    ({"size": {"shortest_edge": 1024, "longest_edge": 4096, "height": None}}, (1024, 4096)),
])
def test_every_spelling_of_a_size(tmp_path, size, both):
    assert bounds(read(write(tmp_path, COMMON | size))) == (both, both)


def test_one_number_for_all_channels(tmp_path):
    protocol = read(write(tmp_path, IMAGE | {"image_mean": 0.5, "image_std": 1}, COMMON | {
        "image_mean": [0.5] * 3, "image_std": [1, 1, 1]}))
    assert (protocol.image_mean, protocol.image_std) == ((0.5,) * 3, (1.0,) * 3)


def test_frames_a_second_are_taken_where_they_were_set(tmp_path):
    assert read(write(tmp_path, IMAGE, VIDEO)).max_frames == MODEL.max_frames
    set_ = read(write(tmp_path, IMAGE, VIDEO | {"fps": 2, "max_frames": 32}))
    assert (set_.fps, set_.max_frames) == (2, 32)
    sampled = read(write(tmp_path, IMAGE, VIDEO | {"fps": 0.5, "do_sample_frames": True}))
    assert (sampled.fps, sampled.max_frames) == (0.5, 768)
    own = {"fourd4d": {"fps": 4.0, "max_frames": 9}}
    kept = read(write(tmp_path, IMAGE | own, VIDEO))
    assert (kept.fps, kept.max_frames) == (4.0, 9)
    with pytest.raises(InputError, match="fps is 2.0, but 4.0 under 'fourd4d'. Make them equal"):
        read(write(tmp_path, IMAGE | own, VIDEO | {"fps": 2}))


@pytest.mark.parametrize("change, words", [
    ({"do_resize": False}, "do_resize is False"), ({"do_rescale": False}, "do_rescale is False"),
    ({"do_normalize": 0}, "do_normalize is 0"), ({"resample": 2}, "resample is 2"),
    ({"resample": "bilinear"}, "resample is 'bilinear'"),
    ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.00784"),
    ({"size": {"height": 224, "width": 224}}, r"'size' has \['height', 'width'\]"),
    ({"size": [56, 112]}, "'size' is "), ({"min_pixels": 0}, "min_pixels is 0, not a positive"),
    ({"patch_size": True}, "patch_size is True"), ({"image_mean": "mean"}, "image_mean is 'mean'"),
    ({"image_std": 0}, r"image_std is \[0.0, 0.0, 0.0\]"),
])
@pytest.mark.parametrize("section", ["image", "video"])
def test_what_is_not_done_here_is_refused(tmp_path, section, change, words):
    """Whichever section says so."""
    parts = {"image": IMAGE, "video": VIDEO} | {section: {"image": IMAGE, "video": VIDEO}[section]
                                                | change}
    if set(change) & {"patch_size", "image_mean", "image_std"}:
        if section == "image":
            del parts["video"]
        else:
            words = "of videos is"
    with pytest.raises(InputError, match=f"processor_config.json: .*{words}"):
        read(write(tmp_path, **parts))


@pytest.mark.parametrize("change, words", [
    ({"num_frames": 16}, "num_frames is 16"), ({"min_frames": 16}, "min_frames is 16"),
    ({"cap_pixels_per_frame": True}, "cap_pixels_per_frame is True"),
    ({"temporal_patch_size": 1}, "temporal_patch of videos is 1, of images 2"),
    ({"merge_size": 1}, "merge of videos is 1, of images 2"),
    ({"fps": "fast"}, "fps is 'fast', not a positive number"), ({"max_frames": 0}, "max_frames"),
])
def test_videos_that_cannot_be_sampled_so_are_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        read(write(tmp_path, IMAGE, VIDEO | change))


@pytest.mark.parametrize("value, words", [
    ({"video_processor": []}, "video_processor is not an object"),
    ({"image_processor": 3}, "image_processor is not an object"), ({}, "it has no image_processor"),
])
def test_sections_that_are_none(tmp_path, value, words):
    good = {} if not value else {"image_processor": IMAGE}
    (tmp_path / "processor_config.json").write_text(json.dumps(good | value))
    with pytest.raises(InputError, match=f"processor_config.json: .*{words}"):
        read(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config.json: no such file"):
        read(tmp_path)


def test_what_is_exported_is_read_back(tmp_path):
    """By the protocol's own file and, without it, by those of transformers."""
    protocol = dataclasses.replace(MODEL, min_pixels=2048, max_pixels=16384, image_min_pixels=1024,
                                   image_max_pixels=4096, fps=0.5, max_frames=7)
    Processor(tiny_tokenizer(), protocol).export(tmp_path, CLASSES)
    video = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert video["size"] == {"longest_edge": 16384, "shortest_edge": 2048}
    assert load_processor(tmp_path).protocol == protocol
    (tmp_path / "protocol.json").unlink()
    assert load_processor(tmp_path, MODEL).protocol == protocol
    same = dataclasses.replace(protocol, image_min_pixels=None, image_max_pixels=None)
    Processor(tiny_tokenizer(), same).export(tmp_path, CLASSES)
    assert not (tmp_path / "video_preprocessor_config.json").exists()
    (tmp_path / "protocol.json").unlink()
    assert load_processor(tmp_path, MODEL).protocol == same


def test_bounds_of_videos_outlive_transformers_that_know_none(tmp_path):
    """As 4.51 saves: the images' file with what it carries along, and no other."""
    protocol = dataclasses.replace(MODEL, min_pixels=2048, max_pixels=16384, image_max_pixels=4096)
    Processor(tiny_tokenizer(), protocol).export(tmp_path, CLASSES)
    for name in ("protocol.json", "video_preprocessor_config.json"):
        (tmp_path / name).unlink()
    assert load_processor(tmp_path, MODEL).protocol == protocol
    images = json.loads((tmp_path / "preprocessor_config.json").read_text())
    write(tmp_path, images, VIDEO | {"size": IMAGE["size"]}, nested=False)  # Changed since.
    assert bounds(read(tmp_path)) == ((2048, 4096), (1024, 4096))
    write(tmp_path, images | {"fourd4d": {"max_pixels": "many"}}, nested=False)
    (tmp_path / "video_preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config.json: max_pixels is 'many'"):
        read(tmp_path)


def test_this_transformers_keeps_what_we_export(tmp_path):
    transformers = pytest.importorskip("transformers")
    protocol = dataclasses.replace(MODEL, min_pixels=2048, max_pixels=16384, image_min_pixels=1024,
                                   image_max_pixels=4096, fps=0.5, image_mean=(0.5, 0.4, 0.3))
    Processor(tiny_tokenizer(), protocol).export(tmp_path / "ours", CLASSES)
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "saved")
    assert load_processor(tmp_path / "saved", MODEL).protocol == protocol
