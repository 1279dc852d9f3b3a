"""Every batch of stage 1's benchmark has the shape that its one program was compiled for."""

from __future__ import annotations

import pytest

from tests.cpu.benchmarks.peers import load_peer


@pytest.mark.parametrize(
    ("lengths", "tokens"),
    [([60, 90], 4 * 90 - 3 * 8), ([60, 60, 60, 127], None), ([128, 127], None)],  # of four prompts of a batch
)
def test_batches_are_alike(lengths, tokens):
    peer = load_peer("our_prompts")
    batches = [{"prompts": [[1] * length] * 4, "labels": [0, 1, 0, 1]} for length in lengths]
    settings = {"ours": {"begins_alike": 8}, "prompts_per_step": 4, "width": 128, "batches": batches}
    plan = peer.plan_of_rows(settings)
    made = [peer.padded_batch(batch["prompts"], batch["labels"], 128, plan).rows for batch in batches]
    assert len(set(made)) == 1
    assert (made[0] and made[0].tokens) == tokens
