"""The ablation of the paper on one dataset: base model, each stage alone, and both, over seeds."""
