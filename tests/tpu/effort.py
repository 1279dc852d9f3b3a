"""How hard libtpu's compiler tries to make a program fast."""

from __future__ import annotations

# The same kernels and products in a third of the time or less, but not quite the memory and its traffic that
# training has.
LEAST_EFFORT = {"exec_time_optimization_effort": -1.0}
