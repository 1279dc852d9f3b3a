"""A template of two parts gives the model's own part back, whatever the other one says."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from prorank_jax.paired_template import own_part, paired_template

OWN = "{{ messages[0]['content'] }}"


@given(said=st.text(), own=st.text())
@example(said=paired_template("", OWN), own=OWN)
def test_the_own_part_is_what_was_put_in(said, own):
    pair = "{%- if pair %}{{ " + json.dumps(said) + " }}"
    assert own_part(paired_template(pair, own)) == own.removesuffix("\n")


@given(st.text())
def test_any_other_template_is_its_own(template):
    assert own_part(template) == template
