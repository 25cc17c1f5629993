"""Does the answer depend on what was imagined? Interventions on a checkpoint's mental images.

    python -m fourd4d.eval probe --config=configs/probe_heldout.py \
        --config.checkpoint=DIR --config.data=FILE.jsonl --config.root=DIR

The data needs DIFT rows: their overlays are the true images. A checkpoint trained on text alone
(--config.text_only=DIR) is measured beside.
"""

from ml_collections import ConfigDict

from configs import eval_heldout


def get_config() -> ConfigDict:
    config = eval_heldout.get_config()
    config.out = "runs/probe"
    config.title = "Does the answer depend on what was imagined?"
    config.page_items = 6
    config.text_only = ""  # A checkpoint that answers without mental images.
    config.text_only_step = 0
    config.controls = True  # Check the probe itself on planted tasks; a minute or two.
    # Names of interventions, such as ("zero", "swap_other"); none for all of them.
    config.probe = ConfigDict(dict(arms=(), seed=0, draws=2000, linear=True))
    with config.unlocked():
        for name in ("shards", "shard", "imagery_items", "benchmark", "split", "protocols", "modes",
                     "runs", "subset"):  # One process sees all items of one file.
            del config[name]
    return config
