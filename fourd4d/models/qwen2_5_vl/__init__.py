"""Qwen2.5-VL: where its published files keep what, and how its config maps to ours."""

from fourd4d.models.qwen2_5_vl.config import decoder_to_hf, from_hf, to_hf
from fourd4d.models.qwen2_5_vl.keys import key_table
from fourd4d.models.qwen2_5_vl.vocabulary import CLASSES, PARITY, tokenizer_from_tiktoken
