"""Reads README.md and docs/, and runs what they say to type."""

import pytest

# So that a failed assertion of a helper says what differed.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("real_runs", "small_things", "ways")))
