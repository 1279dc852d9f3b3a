"""prorank-jax: trains ProRank rerankers (arXiv 2506.03487) in JAX, on TPU, GPU or CPU."""

__version__ = "0.1.0"
