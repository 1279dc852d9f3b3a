"""The work of the scoring benchmark: first-stage candidates of real queries, which every side scores."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prorank_jax.benchmarks.options import ATTENTION_HELP, BenchmarkOptions, attention_of, uses_nvidia
from prorank_jax.benchmarks.peer_model import QWEN2_THIRD, PeerModel, export_peer_model
from prorank_jax.benchmarks.work import shared_settings, write_settings
from prorank_jax.config import ATTENTION_IMPLEMENTATIONS
from prorank_jax.config_checks import require, require_at_least, require_choice
from prorank_jax.corpora import load_collection
from prorank_jax.evaluation.first_stage import counted_queries, make_first_stage, sample_queries
from prorank_jax.evaluation.names import PARTS, naming, parse_dataset
from prorank_jax.flops import read_flops
from prorank_jax.input_checks import Pair
from prorank_jax.models.config import ModelConfig
from prorank_jax.shared_prefix import shared_length

CHECKED_PAIRS = 20
# What the peer may choose from; it stops where one is slower than the best so far.
CPU_BATCHES, GPU_BATCHES = (1, 2, 4, 8, 16, 32), (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class ScoringWork:
    """What is scored, and in which batches; checked when built.

    Attributes:
        queries: how many, a random sample.
        top_k: candidates of each, by BM25.
        batch_size: of our side.
        attention: of our side, as `model.attention` of a run.
        peer_batches: ascending batch sizes of the peer, which takes the fastest before the rounds.
    """

    queries: int = 50
    top_k: int = 20
    batch_size: int = 32
    attention: str = "xla"
    peer_batches: tuple[int, ...] = CPU_BATCHES

    def __post_init__(self) -> None:
        for name in ("queries", "top_k", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        require_choice("attention", self.attention, ATTENTION_IMPLEMENTATIONS)
        valid = bool(self.peer_batches) and min(self.peer_batches) >= 1
        require(valid, "peer_batches", self.peer_batches, "name at least one whole number above 0")
        object.__setattr__(self, "peer_batches", tuple(sorted(set(self.peer_batches))))


BATCHES_HELP = (
    f"batch sizes that the peer tries first ({' '.join(map(str, CPU_BATCHES))}; "
    f"with an NVIDIA GPU {' '.join(map(str, GPU_BATCHES))})"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what only this task has, and its own defaults of what all have."""
    parser.set_defaults(model=QWEN2_THIRD, max_length=512)
    add = parser.add_argument
    add("--queries", type=int, help=f"queries ({ScoringWork.queries})")
    add("--top_k", type=int, help=f"candidates of each query, by BM25 ({ScoringWork.top_k})")
    add("--batch_size", type=int, default=ScoringWork.batch_size, help="of our side (%(default)s)")
    add("--attention", help=ATTENTION_HELP)
    add("--peer_batches", type=int, nargs="+", help=BATCHES_HELP)


def work_from(given: argparse.Namespace) -> ScoringWork:
    """The work that a parsed command line asks for.

    Raises:
        ValueError: a value that cannot work.
    """
    default = ScoringWork(peer_batches=GPU_BATCHES if uses_nvidia() else CPU_BATCHES)
    if given.quick:
        default = ScoringWork(queries=2, top_k=5, peer_batches=(2, 4))
    return ScoringWork(
        queries=default.queries if given.queries is None else given.queries,
        top_k=default.top_k if given.top_k is None else given.top_k,
        batch_size=given.batch_size,
        attention=attention_of(given),
        peer_batches=default.peer_batches if given.peer_batches is None else tuple(given.peer_batches),
    )


def write_scoring_work(options: BenchmarkOptions, size: ScoringWork, work: Path) -> dict[str, Any]:
    """Writes the model and `work.json`; returns the settings.

    Raises:
        ValueError: no such model or dataset, or no candidates.
    """
    pairs = candidate_pairs(options.dataset, size)
    model = export_peer_model(options, work)
    settings = shared_settings(options) | scoring_settings(size, pairs, model)
    write_settings(work, settings)
    return settings


def candidate_pairs(dataset: str, size: ScoringWork) -> list[Pair]:
    """(query, document) texts, those of a query together, as an evaluation scores them.

    Raises:
        ValueError: no such dataset, or no query with candidates.
    """
    named = parse_dataset(dataset)
    with naming(named):
        collection = load_collection(named.source, named.split, PARTS)
    queries = sample_queries(counted_queries(collection), size.queries)
    first_stage = make_first_stage("bm25", collection, queries, size.top_k)
    pairs = [
        (collection.queries[query], collection.documents[document].full_text)
        for query, documents in first_stage.candidates(size.top_k).items()
        for document in documents
    ]
    require(bool(pairs), "dataset", dataset, "none of its queries shares a word with a document")
    return pairs


def scoring_settings(size: ScoringWork, pairs: Sequence[Pair], model: PeerModel) -> dict[str, Any]:
    """What the sides of this task read beside the shared settings.

    `check` and `tuning` are positions of pairs: some from everywhere, and as many as the largest batch,
    neighbours when sorted by length, as they are in a round. `flops_per_round` counts what the prompts of a
    query share once and no padding.
    """
    prompts = [np.asarray(ids, np.int32) for ids in model.renderer.render_batch(pairs)]
    lengths = np.array([len(prompt) for prompt in prompts])
    neighbours = min(max(size.peer_batches), len(pairs))
    first = (len(pairs) - neighbours) // 2
    spread = np.linspace(0, len(pairs) - 1, min(CHECKED_PAIRS, len(pairs)))
    return {
        "queries": size.queries,
        "top_k": size.top_k,
        "scored_pairs": len(pairs),
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max()),
        "frame": model.frame,
        "ours": {"batch_size": size.batch_size, "attention": size.attention},
        "batch_sizes": list(size.peer_batches),
        "pairs": [list(pair) for pair in pairs],
        "check": spread.astype(int).tolist(),
        "tuning": np.argsort(lengths, kind="stable")[first : first + neighbours].tolist(),
        "flops_per_round": least_flops(model.config, [query for query, _ in pairs], prompts),
    }


def least_flops(config: ModelConfig, queries: Sequence[str], prompts: Sequence[np.ndarray]) -> int:
    """FLOPs of the layers where what the prompts of a query share runs once and nothing is padded."""
    total = 0
    for _, group in itertools.groupby(range(len(prompts)), key=lambda place: queries[place]):
        members = [prompts[place] for place in group]
        shared = shared_length(members) if len(members) > 1 else 0
        total += read_flops(config, shared, shared, read=0)
        total += sum(read_flops(config, len(one) - shared, len(one), read=1) for one in members)
    return total
