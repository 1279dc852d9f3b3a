"""A server process whose scores can be told from their texts: `python -m tests.cpu.serving.stand_in_server`.

Options of `ServerOptions` as JSON are its one argument. It prints its address when it is ready.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from prorank_jax.input_checks import Pair
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.process import address_of, bind, serve
from tests.cpu.serving.live import fake_score

SECONDS_A_BATCH = 0.001


def _score(pairs: list[Pair], instruction: str | None) -> np.ndarray:
    time.sleep(SECONDS_A_BATCH)
    return np.array([fake_score(query, document, instruction) for query, document in pairs], np.float32)


def main() -> None:
    listener = bind("127.0.0.1", 0)
    options = ServerOptions(model="stand-in", **json.loads(sys.argv[1]))
    assert serve(options, listener, lambda: _score, lambda: print(address_of(listener), flush=True))


if __name__ == "__main__":
    main()
