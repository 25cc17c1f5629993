"""Pure functions from log-probabilities, latents and rewards to (sum, weight) means."""

from fourd4d.losses.cross_entropy import text_loss, token_log_probs_and_entropy
from fourd4d.losses.imagery import (
    Bank,
    centred_cosine_loss,
    constant_cosine,
    cosine_loss,
    info_nce,
    norm_loss,
    norm_ratio,
    retrieval,
)
from fourd4d.losses.policy import (
    PolicySpec,
    clipped_surrogate,
    group_advantages,
    informative_groups,
    k3,
    latent_log_probs,
    policy_loss,
    response_mean,
)

__all__ = [
    "Bank", "PolicySpec", "centred_cosine_loss", "clipped_surrogate", "constant_cosine",
    "cosine_loss", "group_advantages", "info_nce", "informative_groups", "k3", "latent_log_probs",
    "norm_loss", "norm_ratio", "policy_loss", "response_mean", "retrieval", "text_loss",
    "token_log_probs_and_entropy",
]
