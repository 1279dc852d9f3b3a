"""Scores of an exported folder in other libraries; imports nothing of this project.

It runs in the environment of tests/peers/requirements.txt:

    python tests/peers/export_scores.py FOLDER CASES.json LIBRARY...     prints the scores of each, as JSON

LIBRARY is transformers, sentence-transformers, mxbai-rerank, or `card:` and one of the three, which runs
the code that the folder's README.md shows for it, as if with transformers 5 on a GPU: there all three compute
in the dtype of the weights unless they are told. Several share a process, for importing one takes longer than
its scores. CASES holds `pairs` (query and document), `ids` (token ids of each prompt), `zero`, `one`, `room`,
`prefix` and `suffix`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


@torch.inference_mode()
def transformers_scores(folder: str, cases: dict[str, Any]) -> list[float]:
    """logit("1") - logit("0") at the last token of the given ids."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    last = [model(torch.tensor([ids])).logits[0, -1] for ids in cases["ids"]]
    return [float(logits[cases["one"]] - logits[cases["zero"]]) for logits in last]


def sentence_transformers_scores(folder: str, cases: dict[str, Any]) -> list[float]:
    """What a user gets who names the folder and nothing else."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu")
    return model.predict([tuple(pair) for pair in cases["pairs"]], batch_size=7).tolist()


def mxbai_scores(folder: str, cases: dict[str, Any]) -> list[float]:
    """The package's own prompt with the chat format and the room of the exported model."""
    from mxbai_rerank import MxbaiRerankV2

    MxbaiRerankV2.chat_template = {"prefix": cases["prefix"], "suffix": cases["suffix"]}
    model = MxbaiRerankV2(folder, device="cpu", max_length=cases["room"])
    queries, documents = map(list, zip(*cases["pairs"], strict=True))
    return model.predict(queries, documents).tolist()


@contextmanager
def dtype_of_the_weights(library: str) -> Iterator[None]:
    """The default that transformers has from 5 on; mxbai-rerank passes over it on a CPU."""
    from transformers import PreTrainedModel

    load = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: type, *arguments: Any, **options: Any) -> PreTrainedModel:
        if options.get("dtype", options.get("torch_dtype")) is None:
            options["dtype"] = "auto"
        return load(cls, *arguments, **options)

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(from_pretrained)):
        if library != "mxbai-rerank":
            yield
            return
        with patch("mxbai_rerank.utils.CPU_INCOMPATIBLE_DTYPE", []):
            yield


def card_scores(folder: str, library: str) -> list[float]:
    """Runs a code block of the model card, in which the model's name is that of the folder."""
    card = Path(folder, "README.md").read_text(encoding="utf-8")
    found = re.search(rf"### {re.escape(library)}\n.*?```python\n(.*?)```", card, re.DOTALL)
    if found is None:
        raise ValueError(f"the card shows no code for {library}")
    os.chdir(Path(folder).parent)
    scope: dict[str, Any] = {"__name__": "card"}
    with dtype_of_the_weights(library):
        exec(compile(found[1], f"{library} in README.md", "exec"), scope)
    return [float(score) for score in scope["scores"]]


def scores_of(library: str, folder: str, cases: dict[str, Any]) -> list[float]:
    """What one library, or the card's code for it, gives."""
    if library.startswith("card:"):
        return card_scores(folder, library.removeprefix("card:"))
    known = {
        "transformers": transformers_scores,
        "sentence-transformers": sentence_transformers_scores,
        "mxbai-rerank": mxbai_scores,
    }
    if library not in known:
        raise ValueError(f"{library!r}: none of the libraries this script knows")
    return known[library](folder, cases)


def main() -> None:
    folder, file, *libraries = sys.argv[1:]
    cases = json.loads(Path(file).read_text(encoding="utf-8"))
    torch.set_num_threads(2)
    print(json.dumps({library: scores_of(library, folder, cases) for library in libraries}))


if __name__ == "__main__":
    main()
