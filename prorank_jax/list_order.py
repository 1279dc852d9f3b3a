"""Which documents form which list, and which lists form which batch: a function of (seed, step)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np

from prorank_jax.batch_order import choose_buckets, permutation

PREFIX_MULTIPLE = 8
PREFIX_QUANTILE = 0.9
# What a stream of random numbers is for; part of its key.
_QUERIES, _BATCHES, _MEMBERS, _BORROWED = range(200, 204)

# What a loss may learn the order of a list from.
GRADES, TEACHER = SIGNALS = ("grades", "teacher scores")
_LACKS = {
    True: "have documents of one grade only, and no teacher scores; add irrelevant documents "
    "(data.negatives_per_query) or graded judgements",
    False: "have no two documents of different teacher scores, which is all that ranking.losses learns from; "
    "name others as data.teacher_scores, or add a loss that learns from grades, e.g. listwise=1",
}

_log = logging.getLogger(__name__)


class ListIndex:
    """The examples of a data set by query; queries whose list could teach nothing are left out.

    Attributes:
        members: for each query, int64 positions of its examples.
        prefix_width: static length P of what the prompts of a list share.
        buckets: static lengths S of the rest of a prompt, ascending.
        max_length: what the prompt of a borrowed document is cut to.
    """

    def __init__(
        self,
        name: str,
        lengths: np.ndarray,
        starts: np.ndarray,
        queries: np.ndarray,
        grades: np.ndarray,
        scores: np.ndarray,
        documents: np.ndarray,
        max_length: int,
        borrowing: bool = False,
        learns_from: Collection[str] = SIGNALS,
    ) -> None:
        """Groups the examples and chooses the static lengths.

        Args:
            name: of the data set, for messages.
            lengths, starts, queries, grades, scores, documents: one entry for each example; see
                `records.make_index`.
            max_length: longest prompt, as `lengths` count it.
            borrowing: lists will also hold documents of other queries.
            learns_from: those of `SIGNALS` that the losses read.

        Raises:
            ValueError: no query has two documents that differ in one of these.
        """
        self.lengths, self.starts, self.grades, self.documents = lengths, starts, grades, documents
        self.max_length = max_length
        order = np.argsort(queries, kind="stable")
        cuts = np.flatnonzero(np.diff(queries[order])) + 1
        groups = np.split(order, cuts)
        if GRADES not in learns_from:  # a document without a score would take a place and teach nothing
            groups = [group[np.isfinite(scores[group])] for group in groups]
        self.members = [group for group in groups if _has_signal(grades[group], scores[group], learns_from)]
        left_out = len(groups) - len(self.members)
        if not self.members:
            raise ValueError(f"all {len(groups)} queries of {name} {_LACKS[GRADES in learns_from]}")
        if left_out:
            alike = "documents" if GRADES in learns_from else "documents' teacher scores"
            _log.warning("%s: %d queries whose %s are all alike are left out", name, left_out, alike)
        kept = np.concatenate(self.members)
        wide = np.quantile(starts[kept], PREFIX_QUANTILE, method="inverted_cdf")
        self.prefix_width = int(-(-max(wide, 1) // PREFIX_MULTIPLE)) * PREFIX_MULTIPLE
        rests = self.rest_lengths(kept)
        longest = int(rests.max())
        if borrowing:
            over = int((starts[kept] - self.shared(kept)).max())
            document = int((lengths[kept] - starts[kept]).max())
            longest = max(document, min(over + document, max_length - self.prefix_width))
        self.buckets = _with_last(choose_buckets(rests, int(rests.max())), longest)

    def shared(self, positions: np.ndarray) -> np.ndarray:
        """How many tokens of each prompt go into the shared prefix."""
        return np.minimum(self.starts[positions], self.prefix_width)

    def lengths_beside_first(self, members: np.ndarray) -> np.ndarray:
        """`rest_lengths` of lists' documents beside the query of the list's first one: [Q, K] both."""
        first = members[:, :1]
        whole = self.starts[first] + self.lengths[members] - self.starts[members]
        return np.minimum(whole, self.max_length) - self.shared(first)

    def rest_lengths(self, positions: np.ndarray) -> np.ndarray:
        """How many tokens of each prompt are left after the shared prefix."""
        return self.lengths[positions] - self.shared(positions)


def _has_signal(grades: np.ndarray, scores: np.ndarray, learns_from: Collection[str]) -> bool:
    known = {GRADES: grades, TEACHER: scores[np.isfinite(scores)]}
    return any(len(np.unique(known[signal])) > 1 for signal in learns_from)


def _with_last(buckets: tuple[int, ...], longest: int) -> tuple[int, ...]:
    return buckets if longest <= buckets[-1] else (*buckets, longest)


def choose_members(grades: np.ndarray, size: int, relevant_grade: int, *key: int) -> np.ndarray:
    """At most `size` positions of a query's documents: half of them relevant, spread over the grades.

    Relevant and irrelevant documents are taken in turn, a relevant one first; where one side runs out,
    the other fills the list. On each side every grade has its turn, the highest first; which document of
    a grade comes first depends on the key only.

    Returns:
        int64 positions into `grades`, in the order they were taken.
    """
    shuffled = permutation(len(grades), *key)
    sides = [shuffled[grades[shuffled] >= relevant_grade], shuffled[grades[shuffled] < relevant_grade]]
    return _in_turn([_in_turn(_by_grade(grades, side)) for side in sides])[:size]


def _by_grade(grades: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    found = sorted(set(grades[positions].tolist()), reverse=True)
    return [positions[grades[positions] == grade] for grade in found]


def _in_turn(groups: Sequence[np.ndarray]) -> np.ndarray:
    """The first of each group, then the second of each, and so on."""
    if not groups:
        return np.zeros(0, np.int64)
    turns = np.concatenate([np.arange(len(group)) for group in groups])
    return np.concatenate(groups)[np.argsort(turns, kind="stable")]


class ListOrder:
    """Batches of lists, epoch after epoch: each query once, grouped by the length of their prompts.

    If the number of queries is no multiple of a batch, the epoch's first ones come once more to fill the
    last batch. Every array is a function of (seed, step).
    """

    def __init__(
        self,
        index: ListIndex,
        *,
        list_size: int,
        lists_per_batch: int,
        borrowed: int,
        relevant_grade: int,
        seed: int,
    ) -> None:
        self._index = index
        self._relevant_grade = relevant_grade
        self._size, self._lists, self._borrowed, self._seed = list_size, lists_per_batch, borrowed, seed
        longest = np.array([index.rest_lengths(members).max() for members in index.members])
        self._bucket_of = np.searchsorted(np.asarray(index.buckets), longest)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every query is seen."""
        return -(-len(self._index.members) // self._lists)

    def epoch(self, number: int) -> np.ndarray:
        """The queries of each batch of epoch `number` (from 0): int64 [batches, Q]."""
        wanted = self.batches_per_epoch * self._lists
        queries = np.resize(permutation(len(self._index.members), self._seed, _QUERIES, number), wanted)
        waiting = queries[:0]
        batches = []
        for bucket in range(len(self._index.buckets)):
            waiting = np.concatenate([waiting, queries[self._bucket_of[queries] == bucket]])
            full = len(waiting) // self._lists * self._lists
            batches.append(waiting[:full].reshape(-1, self._lists))
            waiting = waiting[full:]
        together = np.concatenate(batches)
        return together[permutation(len(together), self._seed, _BATCHES, number)]

    def members(self, queries: np.ndarray, epoch: int) -> np.ndarray:
        """The examples of a batch's lists: int64 [Q, K + borrowed], -1 where a list is short."""
        chosen = np.full((len(queries), self._size + self._borrowed), -1, np.int64)
        for row, query in enumerate(queries):
            positions = self._index.members[query]
            grades = self._index.grades[positions]
            key = (self._seed, _MEMBERS, epoch, int(query))
            taken = choose_members(grades, self._size, self._relevant_grade, *key)
            chosen[row, : len(taken)] = positions[taken]
        if self._borrowed:
            chosen[:, self._size :] = self._borrow(chosen[:, : self._size], queries, epoch)
        return chosen

    def _borrow(self, own: np.ndarray, queries: np.ndarray, epoch: int) -> np.ndarray:
        """For each list, documents of the batch's other queries, each once, the best graded first.

        No candidate of the query itself: one that is relevant to both would be borrowed as irrelevant.
        """
        documents = self._index.documents
        borrowed = np.full((len(own), self._borrowed), -1, np.int64)
        for row, query in enumerate(queries):
            others = own[queries != query]
            pool = others.T[others.T >= 0]  # column by column: `choose_members` puts the best first
            pool = pool[~np.isin(documents[pool], documents[self._index.members[query]])]
            pool = pool[np.sort(np.unique(documents[pool], return_index=True)[1])]
            ahead = min(len(pool), max(self._borrowed, len(others)))
            order = permutation(ahead, self._seed, _BORROWED, epoch, int(query))
            taken = pool[order[: self._borrowed]]
            borrowed[row, : len(taken)] = taken
        return borrowed

    def bucket(self, rest_lengths: np.ndarray) -> int:
        """The static length S that holds all of these."""
        fitting: Sequence[int] = [b for b in self._index.buckets if b >= int(rest_lengths.max())]
        return fitting[0]
