"""What must hold whatever a stranger sends; each check makes so many inputs from a seed."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np

from prorank_jax.chat_templates import make_chat_frame
from prorank_jax.corpora import load_collection
from prorank_jax.prompts import make_renderer
from prorank_jax.reranker import Reranker
from prorank_jax.serving.errors import RequestError
from prorank_jax.serving.options import ServerOptions
from prorank_jax.serving.request_format import parse_request
from tests.cpu.hostile import hostile_json, hostile_text
from tests.cpu.test_prompts import DATED_TEMPLATE, SMOL, TINY_QWEN, _small_tokenizer

LLAMA = _small_tokenizer(("<bos>", "<role>", "<end>"), chat_template=DATED_TEMPLATE, eos_token="<end>")
BARE = _small_tokenizer(("</s>",), eos_token="</s>")
FAMILIES = {"qwen": TINY_QWEN, "smollm": SMOL, "own template": LLAMA, "none": BARE}


def check_prompts(count: int, seed: int) -> None:
    """No control token comes out of a text; fixed parts stay whole; nothing is longer than allowed."""
    rng = random.Random(seed)
    for tokenizer in FAMILIES.values():
        added = set(tokenizer.get_added_vocab().values())
        make_chat_frame(tokenizer)
        renderer = make_renderer(tokenizer, max_length=700)
        for _ in range(count // len(FAMILIES)):
            query, document = hostile_text(rng), hostile_text(rng)
            ids = renderer.render(query, document)
            assert len(ids) <= 700
            start, end = renderer.prefix, renderer.ending
            assert ids[: len(start)] == start, (query, document)
            assert ids[-len(end) :] == end, (query, document)
            assert not added & set(ids[len(start) : -len(end)]), (query, document)


def check_scores(reranker: Reranker, count: int, seed: int) -> None:
    """Every pair has a finite score, or its query is refused as empty."""
    rng = random.Random(seed)
    pairs = [(hostile_text(rng) or "?", hostile_text(rng)) for _ in range(count)]
    pairs = [(query if query.strip() else "?", document) for query, document in pairs]
    assert np.isfinite(reranker.predict(pairs, show_progress=False)).all()


def check_requests(count: int, seed: int) -> int:
    """Any bytes are a request or a client's error; returns how many were requests."""
    rng, limits, taken = random.Random(seed), ServerOptions(model="m"), 0
    for _ in range(count):
        body = hostile_json(rng)
        if rng.random() < 0.3:
            texts = [hostile_text(rng) for _ in range(rng.randint(0, 4))]
            body = json.dumps(
                {"query": hostile_text(rng), rng.choice(("documents", "texts")): texts}
            ).encode()
        status = 200
        try:
            taken += len(parse_request(body, limits).pairs) > 0
        except RequestError as error:
            status = error.status
        assert 200 <= status < 500, body[:200]
    return taken


def check_collections(folder: Path, count: int, seed: int) -> int:
    """A folder of lies is a collection or one clear ValueError; returns how many were refused."""
    rng, refused = random.Random(seed), []
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for _ in range(count):
        (folder / "corpus.jsonl").write_bytes(_lines(rng, b'{"_id": "d%d", "title": "", "text": "x"}'))
        (folder / "queries.jsonl").write_bytes(_lines(rng, b'{"_id": "q%d", "text": "y"}'))
        judged = b"query-id\tcorpus-id\tscore\nq0\td0\t1\n"
        if rng.random() < 0.5:
            judged += hostile_text(rng).encode("utf-8", "surrogatepass") + b"\t1\t2\n"
        (folder / "qrels" / "train.tsv").write_bytes(judged)
        try:
            load_collection(str(folder), "train")
        except ValueError as error:
            refused.append(str(error))
    assert all(re.search(r"corpus|queries|qrels|train\.tsv", message) for message in refused)
    return len(refused)


def _lines(rng: random.Random, good: bytes) -> bytes:
    lines = [good % number for number in range(3)]
    if rng.random() < 0.7:
        lines.insert(rng.randrange(4), hostile_json(rng))
    return b"\n".join(lines) + b"\n"
