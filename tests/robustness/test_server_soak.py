"""10,000 requests of clients of all kinds, and 1,000 at once; `make test-robustness`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

from tests.cpu.serving.soak import (
    CLIENT_SECONDS,
    MAX_BODY,
    Client,
    Refused,
    Tally,
    check_counts,
    in_parallel,
    memory_kib,
    open_files,
    server_process,
    settled,
    soak,
)

REQUESTS, LOOKS = 10_000, 10
# Between the second look and the last there are 8,000 requests. Had each left 4 KiB, it would be 31 MiB.
MOST_GROWTH_KIB = 16 * 1024


def test_ten_thousand_requests(capsys):
    started = time.monotonic()
    with server_process(client_timeout_s=CLIENT_SECONDS, max_body_bytes=MAX_BODY) as (process, address):
        files = open_files(process)
        tally = asyncio.run(soak(process, address, requests=REQUESTS, clients=50, looks=LOOKS, seed=1))
        assert open_files(process) <= files + 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with capsys.disabled():
        print(
            f"\n{tally.sent} requests answered: {dict(sorted(tally.answers.items()))}; {tally.maybe} left; "
            f"memory {tally.memory_kib} KiB; {time.monotonic() - started:.0f} s"
        )
    assert max(tally.memory_kib[2:]) - tally.memory_kib[1] < MOST_GROWTH_KIB, tally.memory_kib


def test_a_thousand_requests_at_once(capsys):
    """All wait in the queue; each gets its own scores."""

    async def run(address: str) -> Tally:
        tally = Tally()
        acts = ((lambda n=n: Client(address, tally, n).act("whole")) for n in range(1000))
        await in_parallel(acts, 1000)
        check_counts(tally, await settled(address))
        return tally

    with server_process() as (process, address):
        before, started = memory_kib(process), time.monotonic()
        assert asyncio.run(run(address)).answers == {200: 1000}
        seconds, after = time.monotonic() - started, memory_kib(process)
    with capsys.disabled():
        print(f"\n1000 at once: all right in {seconds:.1f} s; memory {before} to {after} KiB")


def test_sigterm_under_load_again_and_again(capsys):
    """What was accepted is answered, whole and right; what was not gets an error at once."""

    async def run(process, address: str, after: int) -> Counter[str]:
        tally, outcomes = Tally(), Counter[str]()

        async def one(number: int) -> None:
            if sum(tally.answers.values()) >= after and process.poll() is None and not outcomes["told"]:
                outcomes["told"] += 1
                process.send_signal(signal.SIGTERM)
            try:
                await Client(address, tally, number).act("whole")
                outcomes["right"] += 1
            except Refused:
                outcomes["refused"] += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                outcomes["cut off" if getattr(error, "partial", b"") else "not accepted"] += 1

        await in_parallel(((lambda n=n: one(n)) for n in range(600)), 40)
        return outcomes

    total = Counter[str]()
    for number in range(5):
        with server_process() as (process, address):
            total += asyncio.run(run(process, address, 50 + 60 * number))
            assert process.wait(30) == 0
    assert total["told"] == 5
    assert total["right"] > 500
    assert not total["cut off"]
    with capsys.disabled():
        print(f"\nSIGTERM under load: {dict(total)}")
