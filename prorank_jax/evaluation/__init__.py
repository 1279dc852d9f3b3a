"""BEIR evaluation on the host: first stage, metrics, significance, report. Never imports jax."""
