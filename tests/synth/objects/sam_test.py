"""SAM 2 and SAM 3 through transformers: real code on small random models from a local directory."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.masks import GOING, sight

from fourd4d.core.errors import InputError
from fourd4d.synth.objects.mask_backends import MaskSpec, mask_backend_finder, motion
from fourd4d.synth.objects.mask_backends.sam import Sam2Masks, Sam3Masks
from fourd4d.synth.objects.motion_segmentation import MovingObject

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def mend_torchvision():
    """A torchvision built for CUDA cannot load its operators beside a torch for CPU, and then not
    be imported. SAM here calls none of them: it is enough that they are declared.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor boxes, Tensor scores, float most) -> Tensor")


mend_torchvision()


def needs(name):
    """The class, or a skip that says which transformers lacks it."""
    try:
        return getattr(transformers, name)
    except (AttributeError, ImportError, RuntimeError):
        pytest.skip(f"transformers {transformers.__version__} has no {name} here: it needs a "
                    "newer transformers, and torchvision")


def image_processor(name, side, low):
    cls = getattr(transformers, name, None) or needs(name + "Fast")
    return cls(size={"height": side, "width": side}, mask_size={"height": low, "width": low})


MEMORY = dict(
    memory_attention_hidden_size=128, memory_attention_num_layers=1,
    memory_attention_feed_forward_hidden_size=64, memory_encoder_hidden_size=128,
    memory_encoder_output_channels=64, mask_downsampler_embed_dim=128, memory_fuser_embed_dim=128,
    memory_fuser_intermediate_dim=64, memory_fuser_num_layers=1,
    mask_decoder_config=dict(hidden_size=128, mlp_dim=64, num_attention_heads=4,
                             iou_head_hidden_dim=128))


def seen(model):
    """Random weights rarely hold a thing for present; these always do."""
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(10.0)
    return model


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    model_class, processor_class = needs("Sam2VideoModel"), needs("Sam2VideoProcessor")
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4])
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=128,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]])
    config = needs("Sam2VideoConfig")(
        vision_config=vision, image_size=64, memory_attention_rope_feat_sizes=[4, 4],
        prompt_encoder_config=dict(hidden_size=128, image_size=64, mask_input_channels=4), **MEMORY)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    seen(model_class(config)).save_pretrained(folder)
    side = {"height": 64, "width": 64}
    processor_class(image_processor("Sam2ImageProcessor", 64, 16),
                    needs("Sam2VideoVideoProcessor")(size=side)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    model_class, processor_class = needs("Sam3VideoModel"), needs("Sam3VideoProcessor")
    from tokenizers import pre_tokenizers
    from transformers.models.sam3.configuration_sam3 import (
        Sam3Config,
        Sam3VisionConfig,
        Sam3ViTConfig,
    )

    small = dict(hidden_size=128, num_attention_heads=4, intermediate_size=64, num_layers=1)
    vision = Sam3VisionConfig(
        fpn_hidden_size=128, backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        backbone_config=Sam3ViTConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            patch_size=14, window_size=4, global_attn_indexes=[1], pretrain_image_size=56))
    text = dict(model_type="clip_text_model", hidden_size=32, intermediate_size=64,
                num_hidden_layers=1, num_attention_heads=2, vocab_size=300, projection_dim=32,
                max_position_embeddings=32, bos_token_id=298, eos_token_id=299, pad_token_id=299)
    detector = Sam3Config(
        vision_config=vision, text_config=text, geometry_encoder_config=dict(small),
        detr_encoder_config=dict(small), detr_decoder_config=dict(small, num_queries=4),
        mask_decoder_config=dict(hidden_size=128, num_attention_heads=4))
    tracker = needs("Sam3TrackerVideoConfig")(
        vision_config=vision, memory_attention_rope_feat_sizes=[8, 8], **MEMORY,
        prompt_encoder_config=dict(hidden_size=128, image_size=112, patch_size=14,
                                   mask_input_channels=4))
    # Whatever a random detector sees is taken for a thing.
    config = needs("Sam3VideoConfig")(
        detector_config=detector, tracker_config=tracker, low_res_mask_size=32,
        score_threshold_detection=0.0, new_det_thresh=0.0, det_nms_thresh=0.0, hotstart_delay=0,
        hotstart_unmatch_thresh=0, hotstart_dup_thresh=0, max_num_objects=5)
    config.image_size = 112
    torch.manual_seed(0)
    model = model_class(config)
    seen(model.tracker_model)
    folder = tmp_path_factory.mktemp("sam3")
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters)][:298] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizerFast(
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"),
        model_max_length=32)
    side = {"height": 112, "width": 112}
    processor_class(image_processor("Sam3ImageProcessor", 112, 32),
                    needs("Sam2VideoVideoProcessor")(size=side), tokenizer).save_pretrained(folder)
    return folder


def textured():
    one = sight(evidence=GOING * np.float32(2))
    one.frames[:] = np.random.default_rng(0).integers(0, 255, one.frames.shape, dtype=np.uint8)
    one.frames[GOING] = (220, 20, 20)
    return one


BOX = (0.8, (0.25, 0.2, 0.6, 0.7))  # At the fifth of ten frames.


def test_sam2_follows_a_box_both_ways(sam2):
    found, = Sam2Masks(sam2, boxes=(BOX,)).source().find(textured())
    assert found.masks.shape == GOING.shape and found.masks.any((1, 2)).all()
    assert found.name == "" and found.role == ""
    again, = Sam2Masks(sam2, boxes=(BOX,))(textured())
    np.testing.assert_array_equal(found.masks, again.masks)


def test_the_prompted_frame_is_what_the_model_says_there(sam2):
    """Against transformers' own post-processing of one forward pass."""
    one = textured()
    model = transformers.Sam2VideoModel.from_pretrained(sam2).eval()
    processor = transformers.Sam2VideoProcessor.from_pretrained(sam2)
    height, width = one.frames.shape[1:3]
    x0, y0, x1, y1 = BOX[1]
    with torch.inference_mode():
        session = processor.init_video_session(video=one.frames)
        processor.add_inputs_to_inference_session(
            session, frame_idx=4, obj_ids=1,
            input_boxes=[[[x0 * width, y0 * height, x1 * width, y1 * height]]])
        said = model(session, frame_idx=4)
        real = processor.post_process_masks([said.pred_masks], [[height, width]])[0][0, 0]
    found, = Sam2Masks(sam2, boxes=(BOX,))(one)
    np.testing.assert_array_equal(found.masks[4], real.numpy())
    other, = Sam2Masks(sam2, boxes=((0.8, (0.0, 0.0, 0.2, 0.2)),))(one)
    assert (other.masks[4] != found.masks[4]).any()


def test_without_boxes_what_moves_is_followed(sam2, monkeypatch):
    monkeypatch.setattr(motion.motion_segmentation, "find_moving",
                        lambda *_, **__: [MovingObject(GOING, 1.0, 0.3)] * 2)
    found = mask_backend_finder(MaskSpec("sam2", model=str(sam2)))("any video").find(textured())
    assert len(found) == 2 and all(f.role == "dynamic" for f in found)
    np.testing.assert_array_equal(found[0].masks, found[1].masks)  # A session leaves no trace.
    monkeypatch.setattr(motion.motion_segmentation, "find_moving", lambda *_, **__: [])
    assert Sam2Masks(sam2)(textured()) == []


def test_sam3_finds_what_words_name(sam3):
    source = mask_backend_finder(MaskSpec("sam3", model=str(sam3),
                                          prompts=("red person", "dog")))("x")
    found = source.find(textured())
    assert source.name == "sam3" and found
    assert {f.name for f in found} <= {"red person", "dog"} and len({f.name for f in found}) == 2
    sizes = [int(f.masks.sum()) for f in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
    few = Sam3Masks(sam3, ("red person", "dog"), keep=1)(textured())
    assert len(few) == 2


def test_sam3_without_words_follows_a_box(sam3):
    found, = Sam3Masks(sam3, boxes=(BOX,))(textured())
    assert found.masks.shape == GOING.shape and found.masks.any((1, 2)).all()


def test_a_directory_without_a_model_is_told(tmp_path):
    for make in (Sam2Masks(tmp_path, boxes=(BOX,)), Sam3Masks(tmp_path, ("dog",))):
        with pytest.raises(InputError, match="no config.json here"):
            make(textured())
    with pytest.raises(InputError, match=r"masks.model: nothing given for 'sam3'"):
        MaskSpec("sam3")
    with pytest.raises(InputError, match="unknown value 'sam4'"):
        MaskSpec("sam4")


def test_a_transformers_without_the_model_is_told(tmp_path):
    (Path(tmp_path) / "config.json").write_text("{}")
    if hasattr(transformers, "Sam3VideoModel"):
        with pytest.raises(InputError, match="no whole Sam3Video checkpoint"):
            Sam3Masks(tmp_path, ("dog",))(textured())
    else:
        with pytest.raises(InputError, match=f"transformers {transformers.__version__} has no Sam"):
            Sam3Masks(tmp_path, ("dog",))(textured())
