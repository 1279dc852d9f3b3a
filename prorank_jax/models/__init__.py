"""The causal language model: architecture, attention, and weights in and out."""
