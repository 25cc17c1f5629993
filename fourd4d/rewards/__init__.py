"""Rewards of responses; training and evaluation score with the same objects."""

from fourd4d.rewards.joint import JointReward, PairReward, SwapGapReward
from fourd4d.rewards.named import FunctionReward, named_rewards
from fourd4d.rewards.rewards import DEFAULT, AnswerReward, FormatReward, Reward, score

__all__ = [
    "DEFAULT", "AnswerReward", "FormatReward", "FunctionReward", "JointReward", "PairReward",
    "Reward", "SwapGapReward", "named_rewards", "score",
]
