"""What a run trains and what it keeps, by CLU's table of parameters.

Of CLU, ``parameter_overview`` and ``metrics`` load without TensorFlow; ``metric_writers`` and
``periodic_actions`` (CLU 0.0.12) do not, so metrics are written by ``train.writer``.
"""

from __future__ import annotations

from typing import Any

from absl import logging
from clu import parameter_overview
from flax import nnx

from fourd4d.parallel import is_main
from fourd4d.train.state import TrainState


def log_parameters(state: TrainState) -> None:
    """Log name, shape, dtype, size and sharding of every parameter, the frozen ones apart.

    The main host logs, at INFO: ``--verbosity=0`` shows it.
    """
    if is_main():
        for name, tree in (("Trained", state.params), ("Frozen", state.frozen)):
            flat = _flat(tree)
            if flat:
                logging.info("%s parameters:\n%s", name, parameter_overview.get_parameter_overview(
                    flat, include_stats="sharding"))


def _flat(tree: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            for path, leaf in nnx.to_flat_state(tree)}
