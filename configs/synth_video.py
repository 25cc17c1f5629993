"""Questions about video files: one file, or all below a folder.

python -m fourd4d.synth --config=configs/synth_video.py --config.input=DIR --config.output=OUT

With a vision-language model's words: --config.words=vlm --config.vlm.url=http://HOST/v1
--config.vlm.model=NAME, the key in the environment. --config.vlm.dry_run only tells the cost.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "questions"
    config.source = "videos"
    config.input = ""
    config.output = ""
    config.seed = 0
    config.style = "full"
    config.kinds = ("camera", "direction", "distance", "speed", "box_direction")
    config.overlays = ml_collections.ConfigDict(
        {"camera": 2, "direction": 4, "distance": 4, "speed": 5, "box_direction": 3})
    config.varying = True
    config.parts = 3  # where a whole clip is ambiguous, its halves and thirds are tried
    config.quality = 95
    config.records = True
    config.retry_failed = False  # do the videos again that failed before
    config.digest = ml_collections.ConfigDict({
        "fps": 2.0, "side": 448, "analysis_fps": 12.0, "analysis_side": 320, "seconds": 10.0,
        "shortest": 1.5, "max_clips": 12, "looks": 5.0})

    config.poses = "features"  # or colmap; poses and spatialvid read files below poses_root
    config.poses_root = ""
    config.masks = ml_collections.ConfigDict({
        "source": "motion",  # or sam2, sam3, given
        "root": "", "fps": 0.0,  # of given masks
        "model": "", "prompts": (), "device": "cpu", "dtype": "float32"})  # of SAM

    config.words = "template"  # or vlm: a server; local: a checkpoint of ours
    config.vlm = ml_collections.ConfigDict({
        "url": "", "model": "", "key_env": "OPENAI_API_KEY", "checkpoint": "",
        "uses": ("name", "consistency", "question", "reasoning"),
        "cache": "",  # folder of replies; below the output by default
        "concurrency": 8, "tries": 2, "retries": 5, "timeout": 60.0, "wait": 1.0,
        "temperature": 0.0, "json_mode": False,
        "dry_run": False, "input_price": 0.0, "output_price": 0.0})  # of a million tokens
    return config
