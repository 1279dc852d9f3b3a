"""The HTTP server: `python -m prorank_jax.server --model X [--host 127.0.0.1] [--port 8080] ...`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prorank_jax.command_line import CommandParser, add_fields, leave, run_command
from prorank_jax.input_checks import Pair
from prorank_jax.launching import leave_at_once
from prorank_jax.messages import install_extra
from prorank_jax.serving.errors import wrong_field
from prorank_jax.serving.options import ServerOptions

if TYPE_CHECKING:
    from prorank_jax.reranker import Reranker
    from prorank_jax.serving.service import ScorePairs

EXTRA = ("prometheus_client", "starlette", "uvicorn")


def parse_arguments(arguments: Sequence[str]) -> ServerOptions:
    """The options that a command line gives.

    Raises:
        ValueError: an option that is unknown, has no value or a value that cannot work.
        SystemExit: after `--help`.
    """
    parser = CommandParser(
        prog="python -m prorank_jax.server",
        description="Serves a reranker over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_fields(parser, ServerOptions)
    return ServerOptions(**vars(parser.parse_args(arguments)))


def check_extra() -> None:
    """Raises `ValueError` where the packages of the extra `serve` are not there."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is not installed; {install_extra('serve')}")


def load_model(options: ServerOptions) -> ScorePairs:
    """Loads the model and compiles it, by scoring, for the batches it will get.

    Raises:
        ValueError: there is no such model, or an option that does not fit it.
    """
    from prorank_jax.reranker import Reranker  # takes seconds to import, and the server listens by then

    reranker = Reranker.from_pretrained(
        options.model,
        max_length=options.max_length,
        instruction=options.instruction,
        system=options.system,
        excerpts=options.excerpts,
        batch_size=options.max_batch_pairs,
        compute_dtype=options.compute_dtype,
        attention=options.attention,
    )
    reranker.warm_up(every_length=options.warmup == "all")
    reranker.source = options.shown_model  # what it says of scores that are no numbers reaches clients
    return lambda pairs, instruction: _score(reranker, pairs, instruction)


def _score(reranker: Reranker, pairs: list[Pair], instruction: str | None) -> np.ndarray:
    if instruction is None:
        return reranker.score_pairs(pairs)
    try:
        reranker.predict([], instruction=instruction, show_progress=False)
    except ValueError as error:  # the instruction alone is at fault: too long, as a rule
        raise wrong_field("instruction", str(error)) from error
    return reranker.predict(pairs, instruction=instruction, show_progress=False)


def run(options: ServerOptions) -> bool:
    """Serves until SIGTERM or SIGINT; whether the model's thread has ended.

    Raises:
        ValueError: the extra is missing, the address is taken, or there is no such model.
    """
    check_extra()
    from prorank_jax.serving.process import address_of, bind, is_loopback, serve

    listener = bind(options.host, options.port)
    address = address_of(listener)
    if not is_loopback(listener):
        print(f"note: {address} can be reached by others; there is no password", file=sys.stderr)

    def load() -> ScorePairs:
        print(f"loading {options.model}", flush=True)
        return load_model(options)

    def announce() -> None:
        print(f"serving {options.model} on {address}", flush=True)

    return serve(options, listener, load, announce)


def main(arguments: Sequence[str]) -> int:
    """Runs the server; returns the exit code: 0 told to stop, 2 bad input, 130 interrupted."""

    def command() -> None:
        thread_ended = run(parse_arguments(arguments))
        print("stopped", flush=True)
        if not thread_ended:
            # Everything is answered; a computation that nobody waits for must not delay the end.
            leave_at_once(0)

    return run_command(command)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
