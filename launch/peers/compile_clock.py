"""How long XLA took to trace and compile in this process, and how often it compiled."""

from __future__ import annotations

from typing import Any

import jax

_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class CompileClock:
    """Counts from when it is made.

    Attributes:
        seconds: of tracing, lowering and compiling.
        count: programs compiled.
    """

    def __init__(self) -> None:
        """Starts to listen."""
        self.seconds, self.count = 0.0, 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event in _COMPILING:
            self.seconds += duration_secs
            self.count += event == _COMPILING[-1]
