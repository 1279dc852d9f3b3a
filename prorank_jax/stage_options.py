"""Options of the training stages: GRPO (stage 1), ranking (stage 2), low-rank factors (both)."""

from __future__ import annotations

from dataclasses import dataclass

from prorank_jax.config_checks import (
    require,
    require_at_least,
    require_choice,
    require_positive,
)

ADVANTAGES = ("mean", "mean_std")
KL_ESTIMATORS = ("exact", "k3")
SOFT_LABELS = ("grade", "teacher", "teacher_logit")


@dataclass(frozen=True)
class GrpoOptions:
    """Group-relative policy optimisation of the answer (GRPO: arXiv 2402.03300)."""

    group_size: int = 16
    """Completions G sampled for each prompt."""
    max_new_tokens: int = 2
    """The answer and the end-of-turn token."""
    temperature: float = 1.0
    advantage: str = "mean"
    """`mean` subtracts the group's mean reward; `mean_std` also divides by its standard deviation."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    updates_per_rollout: int = 1
    """1: the rollout's own forward pass carries the gradient. More: clipped updates on stored samples."""
    kl_coefficient: float = 0.0
    """Weight of the KL term to the initial policy; 0 keeps no reference model at all."""
    kl_estimator: str = "exact"
    """`exact` over the vocabulary at each answer position, or `k3` on the sampled token; no forced end."""
    entropy_coefficient: float = 0.2
    """Weight of the pull towards an undecided answer, against policies that give one answer to all. It also
    keeps some sampled answers wrong where every prompt is told apart; see `sampled_accuracy`."""
    format_weight: float = 0.5
    """Reward of an answer that is exactly `0` or `1`; half of it for one that only begins so."""
    correct_weight: float = 1.0
    forced_ends: int = 1
    """Completions of each group made to end their turn after an answer, so that it can be learned; the metric
    `format_rate` leaves them out."""
    mask_tied_groups: bool = True
    """Leave groups whose rewards are all equal out of the policy loss's average."""
    packing: bool = True
    """Puts prompts behind each other in rows, and what all begin with there once, where that leaves out a
    sixteenth of a batch's tokens or more. The same logits and gradients, up to rounding."""

    def __post_init__(self) -> None:
        require_at_least("grpo.group_size", self.group_size, 2)
        require_at_least("grpo.max_new_tokens", self.max_new_tokens, 1)
        require_positive("grpo.temperature", self.temperature)
        require_choice("grpo.advantage", self.advantage, ADVANTAGES)
        require(0 < self.clip_low < 1, "grpo.clip_low", self.clip_low, "between 0 and 1")
        require_positive("grpo.clip_high", self.clip_high)
        require_at_least("grpo.updates_per_rollout", self.updates_per_rollout, 1)
        require_at_least("grpo.kl_coefficient", self.kl_coefficient, 0.0)
        require_choice("grpo.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        require_at_least("grpo.entropy_coefficient", self.entropy_coefficient, 0.0)
        require_at_least("grpo.format_weight", self.format_weight, 0.0)
        require_at_least("grpo.correct_weight", self.correct_weight, 0.0)
        forced_fit = 0 <= self.forced_ends < self.group_size
        require(forced_fit, "grpo.forced_ends", self.forced_ends, "from 0 to below grpo.group_size")
        total = self.format_weight + self.correct_weight
        require(total > 0, "grpo.correct_weight", self.correct_weight, "one reward weight must be above 0")


@dataclass(frozen=True)
class RankingOptions:
    """Fine-grained score learning on lists of graded documents (arXiv 2506.03487)."""

    losses: str = "listwise=1"
    """Weighted sum of `listwise`, `pairwise`, `pointwise`, `info_nce` and `preference`, which learn from
    grades, and `margin_mse` and `listwise_teacher`, which learn from a teacher's scores."""
    list_size: int = 8
    """Documents K of each list; shorter lists are filled up and masked."""
    in_batch_negatives: int = 0
    """Documents of the batch's other queries that each list also gets, as negatives of `info_nce`."""
    kl_coefficient: float = 0.0
    """Weight of KL(policy ‖ initial policy) at the answer; 0 keeps no reference for it."""
    format_coefficient: float = 0.0
    """Weight of -log(p(`0`) + p(`1`)) - log p(end of turn | answer): holds the format that stage 1 taught and
    needs no reference. Where there is no format yet, it also sharpens whichever answer leads."""
    soft_labels: str = "grade"
    """Labels of `pointwise`: `grade` as a share of the highest, `teacher` for scores from 0 to 1,
    `teacher_logit` for their sigmoid."""
    preference_beta: float = 0.1
    """Sharpness of `preference`: the smaller, the further scores move from the initial model's."""
    packing: bool = True
    """Puts a list's documents behind each other where that leaves out an eighth of its tokens or more, which
    would be padding: the weights then multiply none. The same scores and gradients, up to rounding."""

    def __post_init__(self) -> None:
        require(bool(self.losses.strip()), "ranking.losses", self.losses, "name a loss, e.g. listwise=1")
        require_at_least("ranking.list_size", self.list_size, 2)
        require_at_least("ranking.in_batch_negatives", self.in_batch_negatives, 0)
        require_at_least("ranking.kl_coefficient", self.kl_coefficient, 0.0)
        require_at_least("ranking.format_coefficient", self.format_coefficient, 0.0)
        require_choice("ranking.soft_labels", self.soft_labels, SOFT_LABELS)
        require_positive("ranking.preference_beta", self.preference_beta)

    @property
    def documents(self) -> int:
        """Documents of each list, borrowed ones included."""
        return self.list_size + self.in_batch_negatives


@dataclass(frozen=True)
class LoraOptions:
    """Training of low-rank factors beside frozen matrices (LoRA: arXiv 2106.09685)."""

    rank: int = 0
    """Rank of the factors of every linear map; 0: all parameters are trained instead."""
    alpha: float = 32.0
    """The product of the factors is scaled by alpha / rank."""

    def __post_init__(self) -> None:
        require_at_least("lora.rank", self.rank, 0)
        require_positive("lora.alpha", self.alpha)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank if self.rank else 0.0
