"""Losses and their gradients from sentence-transformers (PyTorch), to compare ours with.

Runs in an environment of its own with sentence-transformers; imports nothing of this project.

    python sentence_transformers_losses.py IN.npz OUT.npz

IN holds scores [Q, Q, K] float32 (query, query the document belongs to, document), and of each query's own
documents lengths [Q], relevant [Q, K] (the first one only), soft [Q, K] labels in [0, 1] and teacher [Q, K].
OUT holds for each loss its value `<name>` and its gradient `<name>_gradient` [Q, Q, K].
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from torch import Tensor, nn


class GivenScores(CrossEncoder):
    """A cross-encoder that looks the score of a pair up; its texts are positions."""

    def __init__(self, scores: Tensor) -> None:
        nn.Module.__init__(self)
        self.scores = scores

    @property
    def num_labels(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return self.scores.device

    def preprocess(self, pairs: list, **_: object) -> dict[str, Tensor]:
        return {"positions": torch.tensor([[int(query), *map(int, text.split())] for query, text in pairs])}

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        query, owner, document = inputs["positions"].T
        return {"scores": self.scores[query, owner, document][:, None]}


def texts(query: int, length: int) -> list[str]:
    """The documents of a query."""
    return [f"{query} {document}" for document in range(length)]


def lists(data: dict[str, np.ndarray], name: str) -> Iterator[tuple[str, list[str], Tensor]]:
    """Each query with its documents and their labels."""
    for query, length in enumerate(data["lengths"]):
        yield str(query), texts(query, length), torch.from_numpy(data[name][query, :length])


def pointwise(model: CrossEncoder, data: dict[str, np.ndarray]) -> Tensor:
    rows = list(lists(data, "soft"))
    queries = [query for query, documents, _ in rows for _ in documents]
    documents = [document for _, documents, _ in rows for document in documents]
    labels = torch.cat([labels for _, _, labels in rows])
    return losses.BinaryCrossEntropyLoss(model)([queries, documents], labels)


def listwise_teacher(model: CrossEncoder, data: dict[str, np.ndarray]) -> Tensor:
    queries, documents, labels = zip(*lists(data, "teacher"), strict=True)
    return losses.ListNetLoss(model)([list(queries), list(documents)], list(labels))


def pairwise(model: CrossEncoder, data: dict[str, np.ndarray]) -> Tensor:
    """With one gap of grades only, and averaged per list: sentence-transformers has no weights."""
    loss = losses.RankNetLoss(model, reduction_log="natural")
    each = [loss([[query], [documents]], [labels]) for query, documents, labels in lists(data, "relevant")]
    return torch.stack(each).mean()


def margin_mse(model: CrossEncoder, data: dict[str, np.ndarray]) -> Tensor:
    """Every pair of a list is one of its triples."""
    loss, each = losses.MarginMSELoss(model), []
    for query, documents, teacher in lists(data, "teacher"):
        pairs = list(combinations(range(len(documents)), 2))
        columns = [[query] * len(pairs), *([documents[i] for i in side] for side in zip(*pairs, strict=True))]
        margins = torch.stack([teacher[i] - teacher[j] for i, j in pairs])
        each.append(loss(columns, margins))
    return torch.stack(each).mean()


def info_nce(model: CrossEncoder, data: dict[str, np.ndarray]) -> Tensor:
    """Of lists of K documents each; all documents of the other queries are negatives too."""
    queries, width = data["relevant"].shape
    columns = [[f"{query} {document}" for query in range(queries)] for document in range(width)]
    loss = losses.MultipleNegativesRankingLoss(
        model, num_negatives=None, scale=1.0, activation_fn=nn.Identity()
    )
    return loss([[str(query) for query in range(queries)], *columns], None)


LOSSES: tuple[Callable, ...] = (pointwise, listwise_teacher, pairwise, margin_mse, info_nce)


def main() -> None:
    """Reads the command line."""
    source, output = sys.argv[1:]
    data = dict(np.load(source))
    results = {}
    for loss in LOSSES:
        scores = torch.from_numpy(data["scores"]).requires_grad_()
        value = loss(GivenScores(scores), data)
        value.backward()
        results[loss.__name__] = value.detach().numpy()
        results[f"{loss.__name__}_gradient"] = scores.grad.numpy()
    np.savez(output, **results)


if __name__ == "__main__":
    main()
