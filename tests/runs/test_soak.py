"""A sample of tests/robustness/test_server_soak.py: some seconds of clients of all kinds."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.cpu.serving.soak import (
    CLIENT_SECONDS,
    HARMFUL,
    HARMLESS,
    MAX_BODY,
    STALLED,
    Client,
    Tally,
    check_counts,
    in_parallel,
    server_process,
    settled,
    soak,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="memory is read from /proc")


def test_every_kind_of_client_gets_what_it_must():
    async def run(address: str) -> None:
        tally = Tally()
        kinds = [*dict.fromkeys((*HARMLESS, *HARMFUL)), *STALLED]
        acts = ((lambda n=n, kind=kind: Client(address, tally, n).act(kind)) for n, kind in enumerate(kinds))
        await in_parallel(acts, len(kinds))
        check_counts(tally, await settled(address))
        assert set(tally.answers) >= {200, 400, 408, 413, 415, 422}

    with server_process(client_timeout_s=2.0, max_body_bytes=MAX_BODY) as (_, address):
        asyncio.run(run(address))


def test_a_few_hundred_requests_and_the_end():
    with server_process(client_timeout_s=CLIENT_SECONDS, max_body_bytes=MAX_BODY) as (process, address):
        tally = asyncio.run(soak(process, address, requests=300, clients=20, looks=1, seed=0))
        assert tally.answers[200] > 100
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
