"""The page of a training run: everything is on it, and nothing of it is markup that a stranger wrote."""

from __future__ import annotations

import base64
import dataclasses
import random
import re
from html.parser import HTMLParser

from prorank_jax.html_page import escape, page
from prorank_jax.run_diagnosis import diagnose, remarks
from prorank_jax.run_page import render_run_page
from tests.cpu.hostile import MARKUP, hostile_text
from tests.cpu.test_run_diagnosis import DATA, RANKING, WARMUP, after

CONFIG = {"model.source": "tiny", "train.steps": 60}
PNG = b"\x89PNG\r\n\x1a\n picture"


class Tags(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_the_page_has_words_numbers_picture_and_config():
    facts = after(WARMUP, relevant_share=1.0, accuracy=0.5)
    told = {"devices": "1 x cpu", "peak_memory_gib": 4.25, "warnings": ["no"], "diagnosis": {}}
    shown = render_run_page(facts, told | {"conclusion": "said above"}, CONFIG, PNG)
    read = Tags(shown)
    for sentence in (*diagnose(facts).values(), *remarks(facts)):
        assert sentence in read.text
    for words in ("accuracy (greedy)", "after 60 steps", "0.500", "1 x cpu", "train.steps", "1200"):
        assert words in read.text
    assert "most memory taken (GiB)4.25" in read.text
    assert "said above" not in read.text
    assert base64.b64encode(PNG).decode() in shown
    assert "http" not in shown
    assert re.findall(r'(?:src|href)="([^"]{0,22})', shown) == ["data:image/png;base64,"]


def test_a_healthy_run_has_nothing_to_look_at():
    read = Tags(render_run_page(RANKING, {}, CONFIG, None))
    assert "Finished well" in read.text
    assert "What to look at" not in read.text
    assert "img" not in read.tags


def test_hostile_names_stay_text():
    clean = Tags(render_run_page(WARMUP, {"data": "x"}, CONFIG, PNG)).tags
    rng = random.Random(0)
    names = [*MARKUP, *(hostile_text(rng)[:2000] for _ in range(40))]
    for name in names:
        shown = render_run_page(WARMUP, {"data": name}, CONFIG | {"model.source": name}, PNG)
        assert Tags(shown).tags == clean
        shown.encode("utf-8")


def test_text_reads_as_it_was_written():
    read = Tags(page("t", [escape("a < b & \"c\" 'd' \ud800")])).text
    assert read.rstrip().endswith("a < b & \"c\" 'd' ?")


def test_a_cut_prompt_is_remarked_on():
    facts = dataclasses.replace(WARMUP, data=dataclasses.replace(DATA, cut=600))
    assert "50% of the prompts" in Tags(render_run_page(facts, {}, CONFIG, None)).text
