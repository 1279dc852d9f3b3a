"""The rows of the ablation, in the order of the table."""

from __future__ import annotations

BASE, STAGE1, STAGE2, BOTH = "base", "stage1", "stage2", "both"
ROWS = (BASE, STAGE1, STAGE2, BOTH)
TRAINED = (STAGE1, STAGE2, BOTH)
TITLES = {
    BASE: "base model",
    STAGE1: "stage 1 only",
    STAGE2: "stage 2 only",
    BOTH: "both stages",
}
