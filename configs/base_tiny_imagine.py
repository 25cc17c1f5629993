"""The tiny base's lessons in imagining: to imagine, to read what it imagined, to answer by it.

    python -m fourd4d.synth --config=configs/synth_imagine.py --config.output=runs/imagine_data
    python -m fourd4d.experiments rows --config.data=runs/imagine_data/dift.jsonl \
        --config.output=runs/imagine_data --config.together
    python -m fourd4d.dift --config=configs/base_tiny_imagine.py

The first has every question twice: with mental images under the recipe of ``dift_imagery_tiny``,
and in words alone, so that neither way of answering starts with an advantage. The second goes on
with twice the clips, and asks half of them three ways more, in which no words say what is seen:
with images, without, and with dots in their place. Its rows, from another 5,400 clips of start
300,000 (``runs/imagine_more``), and again for both without words:

    python -m fourd4d.experiments rows --config.data=runs/$D/dift.jsonl \
        --config.output=runs/$D/silent --config.together --config.aloud=False \
        --config.arms="('imagery', 'text', 'pause')"
    for D in imagine_data imagine_more; do
      (cat runs/$D/lesson.jsonl; awk 'int((NR - 1) / 3) % 2 == 0' runs/$D/silent/lesson.jsonl) |
        sed "s#\"processed_data/#\"$D/processed_data/#g"
    done > runs/imagine_second.jsonl
    python -m fourd4d.dift --config=configs/base_tiny_imagine.py:second

The third is the first again, with all clips so far and twice 3,500 new ones, of start 320,000 and
330,000 (``runs/imagine_third_a``, ``_b``; of each ``rows`` as for the first):

    for D in imagine_data imagine_more imagine_third_a imagine_third_b; do
      sed "s#\"processed_data/#\"$D/processed_data/#g" runs/$D/lesson.jsonl
    done > runs/imagine_third.jsonl
    python -m fourd4d.dift --config=configs/base_tiny_imagine.py:third
"""

from ml_collections import ConfigDict

from configs import dift_imagery_tiny

LESSONS = ("first", "second", "third")


def get_config(lesson: str = "first") -> ConfigDict:
    if lesson not in LESSONS:
        raise ValueError(f"unknown lesson {lesson!r}: choose among {', '.join(LESSONS)}")
    config = dift_imagery_tiny.get_config()
    config.workdir = f"runs/base_tiny_imagine_{lesson}"
    config.init = "tiny-base"
    config.data.path = "runs/imagine_data/lesson.jsonl"
    config.data.measure = 1500
    config.dift.read_targets_end = 0.2
    config.dift.read_targets_steps = 720
    config.optimizer.warmup_steps = 50
    config.batch = 24
    config.steps = 720
    config.log_every = 20
    config.eval_every = 0
    config.save_every = 200
    if lesson != "first":
        before = LESSONS[LESSONS.index(lesson) - 1]
        config.init = f"runs/base_tiny_imagine_{before}/checkpoints"
        config.data.path = f"runs/imagine_{lesson}.jsonl"
        config.data.root = "runs"
        config.dift.read_targets = 0.2
        config.dift.read_targets_steps = 0
        config.optimizer.learning_rate = 1e-3
        config.steps = 1100
    if lesson == "third":
        config.seed = 1
        config.steps = 1450
    return config
