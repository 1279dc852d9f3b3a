"""Which prompts stand behind each other in a packed row, so that next to nothing is padded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from prorank_jax.batch_shapes import (
    FULL_BATCH_WIDTH,
    BatchShapes,
    batch_overhead,
    next_width,
    width_ladder,
)
from prorank_jax.flops import forward_flops
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.packed_layout import NO_PREFIX
from prorank_jax.shared_prefix import PromptGroup, make_groups
from prorank_jax.types import PackedBatch

# Lengths of rows that are tried: so many, from longer ones than a single batch would need downwards.
_COMPARED, _SPARE = 4, 2
_COARSE_STEP = 128


@dataclass(eq=False)
class _Row:
    """What stands in a row: prompts of some groups, each behind its group's start."""

    tokens: int = 0
    prompts: int = 0
    segments: int = 0
    width: int = 0
    prefix_width: int = 0
    parts: list[tuple[PromptGroup, list[int]]] = field(default_factory=list)  # members by number

    def start_of(self, group: PromptGroup) -> int:
        """Tokens to be added before the next prompt of a group."""
        return 0 if self.parts and self.parts[-1][0] is group else group.shared

    def add(self, group: PromptGroup, member: int) -> None:
        if not (self.parts and self.parts[-1][0] is group):
            self.parts.append((group, []))
            self.tokens += group.shared
            self.segments += int(group.shared > 0)
            self.prefix_width = max(self.prefix_width, group.shared)
            self.width = max(self.width, group.shared)
        self.parts[-1][1].append(member)
        self.tokens += group.rests[member]
        self.prompts += 1
        self.segments += 1
        self.width = max(self.width, group.rests[member])

    def close(self) -> None:
        """A prompt that is alone in its row is one segment, for nobody shares its start."""
        if self.prompts == 1:
            self.segments, self.width, self.prefix_width = 1, self.tokens, 0


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """The rows of one batch, and its static shape.

    Attributes:
        rows: at most R.
        count: R.
        tokens: T of a row.
        segments: E of a row.
        width: S of a segment.
        prefix_width: P of a segment that others follow; 0 where none does.
    """

    rows: list[_Row]
    count: int
    tokens: int
    segments: int
    width: int
    prefix_width: int

    def flops(self, config: ModelConfig) -> int:
        """FLOPs of the layers, padding included."""
        attention = forward_flops(config, self.width, self.prefix_width + self.width)
        attention -= forward_flops(config, self.width, 0)
        return self.count * (forward_flops(config, self.tokens, 0) + self.segments * attention)

    @property
    def area(self) -> int:
        """What the memory of attention grows with; see `_area`."""
        return _area(self.tokens, self.segments, self.width, self.prefix_width)


def _area(tokens: int, segments: int, width: int, prefix_width: int) -> int:
    """Logits of a row and head: within segments, or in the last layer of each one's end over all of it."""
    return segments * max(width * (prefix_width + width), tokens)


def plan_packed(
    prompts: Sequence[np.ndarray],
    queries: Sequence[str],
    shapes: BatchShapes,
    ways: int,
    config: ModelConfig,
    most_tokens: int,
    *,
    fine: bool,
) -> list[PackedPlan]:
    """Which prompts share a row, and which rows a batch, so that the work is small.

    Prompts of a query stand together, behind what they share. Rows are of one length where several are full;
    which one is found by trying. The batch that takes the most memory comes first; none takes more than a
    full padded one, unless it has a prompt to a row. No plan at all: there is nothing to pack, or no room.

    Args:
        shapes: of batches of padded prompts, whose memory a packed one keeps to.
        ways: over how many devices rows are split; a batch has one for each.
        most_tokens: of a row; no prompt has more.
        fine: whether shapes come in small steps, for devices that compute longer than they compile.
    """
    if not prompts:
        return []
    groups = sorted(make_groups(prompts, queries), key=lambda one: -one.rests[0])
    longest = max(group.shared + group.rests[0] for group in groups)
    total = sum(group.shared + sum(group.rests) for group in groups)
    ladder = width_ladder(most_tokens)
    ladder = ladder if fine else ladder[::-2][::-1]
    of_one_batch = bisect_left(ladder, -(-total // ways))
    area = shapes.rows[-1] // ways * FULL_BATCH_WIDTH**2
    plans: list[list[PackedPlan]] = []
    for budget in reversed(ladder[: of_one_batch + _SPARE]):
        if budget < longest or len(plans) == _COMPARED:
            break
        rows = sorted(_fill_rows(groups, budget, area, fine), key=lambda row: -row.width)
        batches = [rows[start : start + ways] for start in range(0, len(rows), ways)]
        plan = [_of_rows(batch, ways, ladder if fine else (budget,), fine) for batch in batches]
        if all(one.area <= area or all(row.prompts == 1 for row in one.rows) for one in plan):
            plans.append(plan)
    overhead = batch_overhead(config)
    least_work = min(plans, key=lambda plan: sum(one.flops(config) + overhead for one in plan), default=[])
    return sorted(least_work, key=lambda one: one.area, reverse=True)


def _of_rows(rows: list[_Row], ways: int, lengths: Sequence[int], fine: bool) -> PackedPlan:
    def most(name: str) -> int:
        return max(getattr(row, name) for row in rows)

    return PackedPlan(
        rows=rows,
        count=ways,
        tokens=lengths[bisect_left(lengths, most("tokens"))],
        segments=_few_counts(most("segments"), fine),
        width=_in_steps(most("width"), fine),
        prefix_width=_in_steps(most("prefix_width"), fine),
    )


def _in_steps(length: int, fine: bool) -> int:
    """The next of a few lengths, 0 for 0; coarse ones are multiples of what a TPU computes at once."""
    if fine or length <= _COARSE_STEP:
        return next_width(length) if length else 0
    return -(-length // _COARSE_STEP) * _COARSE_STEP


def _few_counts(count: int, fine: bool) -> int:
    """The next of a few numbers: four in each octave, or two."""
    step = max(1, (1 << (count - 1).bit_length()) // (8 if fine else 4))
    return -(-count // step) * step


def _fill_rows(groups: Sequence[PromptGroup], budget: int, area: int, fine: bool) -> Iterator[_Row]:
    """Rows of at most `budget` tokens; of a group, the longest prompt that still has room comes next."""
    row = _Row()
    for group in groups:
        members = list(range(len(group.places)))
        while members:
            room = budget - row.tokens - row.start_of(group)
            first = bisect_left(members, -room, key=lambda member: -group.rests[member])
            if first < len(members) and _keeps_to(area, budget, row, group, members[first], fine):
                row.add(group, members.pop(first))
            else:
                row.close()
                yield row
                row = _Row()
    row.close()
    yield row


def _keeps_to(area: int, budget: int, row: _Row, group: PromptGroup, member: int, fine: bool) -> bool:
    """Whether a row that gets one more prompt stays within an area; the first one always may come."""
    width = _in_steps(max(row.width, group.shared, group.rests[member]), fine)
    prefix_width = _in_steps(max(row.prefix_width, group.shared), fine)
    return not row.parts or _area(budget, _few_counts(row.segments + 2, fine), width, prefix_width) <= area


def pad_packed(plan: PackedPlan, prompts: Sequence[np.ndarray]) -> PackedBatch:
    """The batch of a plan."""
    table = (plan.count, plan.segments)
    batch = PackedBatch(
        tokens=np.zeros((plan.count, plan.tokens), np.int32),
        segments=np.zeros((plan.count, plan.tokens), np.int32),
        starts=np.zeros(table, np.int32),
        lengths=np.ones(table, np.int32),
        prefixes=np.full(table, NO_PREFIX, np.int32),
        examples=np.full(table, -1, np.int32),
        width=plan.width,
        prefix_width=plan.prefix_width,
    )
    for number, row in enumerate(plan.rows):
        for segment, (tokens, prefix, example) in enumerate(_segments(row, prompts)):
            start = batch.starts[number, segment - 1] + batch.lengths[number, segment - 1] if segment else 0
            batch.tokens[number, start : start + len(tokens)] = tokens
            batch.segments[number, start : start + len(tokens)] = segment
            batch.starts[number, segment] = start
            batch.lengths[number, segment] = len(tokens)
            batch.prefixes[number, segment] = prefix
            batch.examples[number, segment] = example
    return batch


def _segments(row: _Row, prompts: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, int, int]]:
    """Of each segment: its tokens, the one that it follows, and the prompt that ends with it."""
    if row.prompts == 1:
        ((group, (member,)),) = row.parts
        yield prompts[group.places[member]], NO_PREFIX, group.places[member]
        return
    made = 0
    for group, members in row.parts:
        prefix = NO_PREFIX
        if group.shared:
            prefix = made
            yield prompts[group.places[0]][: group.shared], NO_PREFIX, -1
            made += 1
        for member in members:
            place = group.places[member]
            yield prompts[place][group.shared :], prefix, place
            made += 1
