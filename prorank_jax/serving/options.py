"""What a server can be told on its command line; every value is checked before a model is read."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field
from typing import Any

from prorank_jax.config import ATTENTION_IMPLEMENTATIONS, COMPUTE_DTYPES
from prorank_jax.config_checks import require, require_at_least, require_choice, require_positive
from prorank_jax.excerpts import EXCERPT_STYLES

WARMUPS = ("short", "all")


def option(default: Any, meaning: str) -> Any:
    """A field of options that a command line has; the default MISSING: it must be given."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class ServerOptions:
    """The options of `python -m prorank_jax.server`, in the order in which its help shows them.

    Raises:
        ValueError: a value that cannot work; the message names it and the remedy.
    """

    model: str = option(MISSING, "run directory, RUN@STEP, Hugging Face folder or hub id, or GGUF file")
    host: str = option("127.0.0.1", "address to listen on; anything but loopback lets others in")
    port: int = option(8080, "port to listen on; 0: a free one")
    served_model_name: str | None = option(None, "the model's name for clients; without it --model as it is")
    max_length: int | None = option(None, "longest prompt in tokens; longer documents are cut")
    instruction: str | None = option(None, "instruction of requests that bring none")
    system: str | None = option(None, "system sentence of the prompt")
    excerpts: str | None = option(None, "what is kept of longer documents: head or key_sentences")
    calibration: str | None = option(
        None, "file of save_calibration, for scores from 0 to 1; else the sigmoid"
    )
    compute_dtype: str = option("float32", "float32 or bfloat16")
    attention: str = option("xla", "xla; splash on TPU, cudnn on NVIDIA GPUs")
    warmup: str = option("short", "compile before the first request: short documents, or all lengths")
    max_body_bytes: int = option(4 * 2**20, "longest request body")
    max_documents: int = option(1000, "most documents of a request")
    max_text_chars: int = option(200_000, "longest query, document or instruction, in characters")
    max_queue_pairs: int = option(4096, "most pairs that wait for the model; requests beyond get 503")
    max_held_bytes: int = option(256 * 2**20, "most bytes that requests hold in memory; beyond: 503")
    max_connections: int = option(1024, "most open connections; while there are more, requests get 503")
    max_batch_pairs: int = option(32, "most pairs that the model scores at once")
    batch_wait_ms: float = option(5.0, "longest wait for more pairs after the first, in milliseconds")
    request_timeout_s: float = option(60.0, "longest wait for scores; after that: 504")
    hang_timeout_s: float = option(
        600.0, "a batch that takes longer, compilation included, hangs: /live is 503"
    )
    client_timeout_s: float = option(20.0, "longest time a client takes to send a request or take an answer")
    keep_alive_s: float = option(75.0, "how long an idle connection is kept; give more than a proxy has")
    drain_delay_s: float = option(0.0, "how long after SIGTERM requests are taken while /health is 503")
    shutdown_timeout_s: float = option(30.0, "longest time from then to the exit")

    @property
    def shown_model(self) -> str:
        """The name of the model that clients see."""
        return self.served_model_name or self.model

    def __post_init__(self) -> None:
        require(bool(self.model), "model", self.model, "name a folder, hub id or GGUF file")
        require(bool(self.host), "host", self.host, "name an address, e.g. 127.0.0.1")
        require(0 <= self.port < 65536, "port", self.port, "a port is from 0 to 65535")
        if self.served_model_name is not None:
            require(bool(self.served_model_name), "served_model_name", self.served_model_name, "give a name")
        if self.excerpts is not None:
            require_choice("excerpts", self.excerpts, EXCERPT_STYLES)
        if self.calibration is not None:
            require(bool(self.calibration), "calibration", self.calibration, "name a file")
        require_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        require_choice("attention", self.attention, ATTENTION_IMPLEMENTATIONS)
        require_choice("warmup", self.warmup, WARMUPS)
        if self.max_length is not None:
            require_at_least("max_length", self.max_length, 16)
        for name in (
            "max_body_bytes",
            "max_documents",
            "max_text_chars",
            "max_queue_pairs",
            "max_held_bytes",
            "max_connections",
            "max_batch_pairs",
        ):
            require_at_least(name, getattr(self, name), 1)
        timeouts = ("request_timeout_s", "hang_timeout_s", "client_timeout_s", "shutdown_timeout_s")
        for name in (*timeouts, "keep_alive_s"):
            require_positive(name, getattr(self, name))
        require_at_least("drain_delay_s", self.drain_delay_s, 0)
        is_wait = 0 <= self.batch_wait_ms < math.inf
        require(is_wait, "batch_wait_ms", self.batch_wait_ms, "must be a finite number from 0 on")
        fits = self.max_documents <= self.max_queue_pairs
        remedy = f"must be at least max_documents={self.max_documents}, or no such request is ever taken"
        require(fits, "max_queue_pairs", self.max_queue_pairs, remedy)
        fits = self.max_body_bytes <= self.max_held_bytes
        remedy = f"must be at least max_body_bytes={self.max_body_bytes}, or no such body is ever taken"
        require(fits, "max_held_bytes", self.max_held_bytes, remedy)
