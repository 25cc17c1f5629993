"""What both trainers share: state, optimizer, the loop's parts, metric writing."""

from fourd4d.train.loop import Every, NonFiniteError, Outcome, Preemption, run
from fourd4d.train.optimizer import OptimizerSpec, learning_rate, make_optimizer
from fourd4d.train.resume import check_origin, origin
from fourd4d.train.state import (
    TrainState,
    abstract_state,
    apply_gradients,
    create_state,
    gradients,
    state_from,
)
from fourd4d.train.writer import MetricWriter

__all__ = [
    "Every", "MetricWriter", "NonFiniteError", "OptimizerSpec", "Outcome", "Preemption",
    "TrainState", "abstract_state", "apply_gradients", "check_origin", "create_state", "gradients",
    "learning_rate", "make_optimizer", "origin", "run", "state_from",
]
