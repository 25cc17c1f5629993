"""Rewards by name: the package's own, and a user's function by ``module:name``."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fourd4d.core.errors import InputError, one_line
from fourd4d.core.sample import Sample
from fourd4d.rewards.joint import JointReward, PairReward, SwapGapReward
from fourd4d.rewards.rewards import AnswerReward, FormatReward, Reward

BY_NAME = {"answer": AnswerReward, "format": FormatReward, "pair": PairReward,
           "swap_gap": SwapGapReward}


@dataclasses.dataclass(frozen=True)
class FunctionReward:
    """A function of (sample, text), and of the response's latents if it has a parameter for them.

    Attributes:
      where: ``module:name``, for logs and errors.
      wants_latents: it is called with ``latents``, the (n, D) vectors that the response was fed.
    """

    function: Callable[..., Any]
    where: str
    weight: float = 1.0
    wants_latents: bool = False

    @property
    def name(self) -> str:
        """What stands in the logs: the part after the colon."""
        return self.where.partition(":")[2]

    def __call__(self, sample: Sample, text: str, latents: np.ndarray | None = None) -> float:
        """Raises InputError where the function raises, or gives no finite number."""
        try:
            value = float(self.function(sample, text, **(
                {"latents": latents} if self.wants_latents else {})))
        except Exception as error:
            raise InputError(f"reward {self.where}", f"failed on sample {sample.id!r} "
                             f"({one_line(error)})", "Make it answer every response") from error
        if not math.isfinite(value):
            raise InputError(f"reward {self.where}", f"gave {value} for sample {sample.id!r}",
                             "Return a finite number")
        return value


def named_rewards(weights: Mapping[str, float], functions: Sequence[str] = ()
                  ) -> tuple[Reward | JointReward, ...]:
    """Rewards in the order given.

    Args:
      weights: of the package's own, by name; a joint one of weight 0 is left out.
      functions: ``module:name`` or ``module:name=weight`` each; the module is imported.

    Raises:
      InputError: an unknown name, a module or function that cannot be had, a weight that is no
        number, or one name twice.
    """
    unknown = sorted(set(weights) - set(BY_NAME))
    if unknown:
        raise InputError("config.rewards", f"unknown rewards {unknown}",
                         f"Known: {sorted(BY_NAME)}; your own go into config.rewards.functions")
    found: list[Any] = [BY_NAME[name](weight) for name, weight in weights.items()
                        if weight or not issubclass(BY_NAME[name], JointReward)]
    found += [_function(spec) for spec in functions]
    names = [reward.name for reward in found]
    twice = sorted({name for name in names if names.count(name) > 1 or name == "reward"})
    if twice:
        raise InputError("config.rewards.functions", f"names {twice} are taken", "Rename them")
    return tuple(found)


def _function(spec: str) -> FunctionReward:
    where, _, weight = spec.partition("=")
    module, _, name = where.partition(":")

    def bad(what: str) -> InputError:
        return InputError("config.rewards.functions", f"{spec!r}: {what}",
                          "Give module:name or module:name=weight, the module importable from here")

    if not module or not name:
        raise bad("no module and name")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise bad(one_line(error)) from error
    if not callable(function):
        raise bad("is not a function")
    try:
        number = float(weight) if weight else 1.0
    except ValueError as error:
        raise bad(f"weight {weight!r} is not a number") from error
    return FunctionReward(function, where, number,
                          "latents" in inspect.signature(function).parameters)
