"""One pass keeps what is named of a collection, whatever else passes by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prorank_jax import named_documents
from prorank_jax.collection import Collection, Named
from prorank_jax.named_documents import find_named, with_found
from prorank_jax.types import Document

ids = st.text("abc", min_size=1, max_size=2)
some = st.sets(ids, max_size=5)


@given(there=st.lists(ids, max_size=12), texts=some, named=some, judged=some)
def test_what_is_kept_is_what_is_named_of_what_is_there(there, texts, named, judged):
    documents = [Document(identifier, f"text {place}") for place, identifier in enumerate(there)]
    whole = {document.id: document for document in documents}
    collection = Collection("c", {}, {"q": "?"}, {"q": dict.fromkeys(judged, 1)})
    found = find_named(iter(documents), collection, lambda _: Named(texts, named))
    assert found.documents == {name: whole[name] for name in texts & whole.keys()}
    assert found.unread == ((named | judged) & whole.keys()) - texts
    assert found.size == len(whole)
    assert found.repeated == {hash(name) for name in there if there.count(name) > 1}
    kept = with_found(collection, found)
    assert kept.document_count == len(whole)
    assert all(kept.holds(name) == (name in whole) for name in texts | named | judged)


def test_what_is_needed_is_told_from_queries_and_judgements_alone():
    judged = Collection("c", {}, {"q": "?"}, {"q": {"a": 1}})
    seen = []

    def choose(given_to: Collection) -> Named:
        seen.append(given_to)
        return Named(set(), set())

    assert find_named(iter(()), judged, choose) == named_documents.Found({}, frozenset(), 0, frozenset())
    assert seen == [judged]
