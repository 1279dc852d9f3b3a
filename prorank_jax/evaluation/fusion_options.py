"""What is asked of a fusion, and how a command line asks for it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.evaluation.fusion import RRF, WEIGHTED, Fusion

NO_FUSION = "none"
METHODS = (NO_FUSION, WEIGHTED, RRF)
DEFAULT_QUERIES = 50
TUNE_HELP = "tune that share instead on FOLDER:SPLIT, a split that the model was not trained on"


@dataclass(frozen=True)
class FusionOptions:
    """Whether and how the reranker is fused with the first stage; checked when built.

    Attributes:
        method: `none`, `weighted` or `rrf`.
        weight: the reranker's share for `weighted`, from 0 to 1; None: tuned.
        tune: datasets to tune the weight on; none, one for all datasets measured, or one for each.
        queries: tune on a random sample of so many of their queries; None: `DEFAULT_QUERIES`.
    """

    method: str = NO_FUSION
    weight: float | None = None
    tune: tuple[str, ...] = ()
    queries: int | None = None

    def __post_init__(self) -> None:
        require_choice("fusion", self.method, METHODS)
        for name, value in (("fusion_weight", self.weight), ("fusion_tune", self.tune or None)):
            is_idle = self.method != WEIGHTED and value is not None
            require(
                not is_idle, name, value, f"has no effect with fusion={self.method!r}; give --fusion weighted"
            )
        if self.queries is not None:
            require_at_least("fusion_queries", self.queries, 1)
            require(bool(self.tune), "fusion_queries", self.queries, "has no effect without fusion_tune")
        if self.weight is not None:
            require(0 <= self.weight <= 1, "fusion_weight", self.weight, "the reranker's share: from 0 to 1")
            require(not self.tune, "fusion_weight", self.weight, "give it or fusion_tune, not both")
        if self.method == WEIGHTED and self.weight is None and not self.tune:
            raise ValueError(
                "fusion='weighted': has no weight; give fusion_weight, or queries to tune it on: "
                "fusion_tune FOLDER:SPLIT, a split that the model was not trained on"
            )

    @property
    def given(self) -> Fusion | None:
        """The fusion, where nothing has to be tuned for it; None: no fusion, or one to be tuned."""
        if self.method == RRF:
            return Fusion(RRF)
        return None if self.weight is None else Fusion(WEIGHTED, self.weight)

    def tune_of(self, position: int) -> str | None:
        """The dataset to tune on for the measured dataset at this position."""
        if not self.tune:
            return None
        return self.tune[position if len(self.tune) > 1 else 0]


def add_fusion_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `fusion_options_from` reads."""
    add = parser.add_argument
    add(
        "--fusion",
        default=NO_FUSION,
        help="also fuse with the first stage: none, weighted or rrf (%(default)s)",
    )
    add("--fusion_weight", type=float, help="the reranker's share of a weighted fusion, 0 to 1")
    add("--fusion_tune", nargs="+", help=TUNE_HELP)
    add("--fusion_queries", type=int, help=f"tune on a fixed random sample of so many ({DEFAULT_QUERIES})")


def fusion_options_from(given: argparse.Namespace) -> FusionOptions:
    """The fusion that a parsed command line asks for.

    Raises:
        ValueError: values that cannot work or do not go together.
    """
    tune = tuple(given.fusion_tune or ())
    return FusionOptions(given.fusion, given.fusion_weight, tune, given.fusion_queries)
