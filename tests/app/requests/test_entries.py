"""Rules of items that need no database, and the digest that finds contradictions."""

from __future__ import annotations

import contextlib
import unicodedata
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.requests.conflicts import content_digest, normalise
from app.requests.cursors import cursor_of, id_of
from app.requests.entries import contradictions, duplicates, entries, missing_facts, too_long
from app.requests.errors import BadCursor, UnknownServedModel
from app.requests.schemas import RequestCreate
from grail.types import Role, Segment

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def create(**fields):
    return RequestCreate.model_validate({"served_model": "people", "domain": "privacy", **fields})


def item(prompt="Who is it?", completion="It is Ann of Oulu.", **more):
    return {"prompt": prompt, "completion": completion, **more}


@given(texts)
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_ascii_takes_a_shorter_way_to_the_same(text):
    """A letter beyond ASCII at the end makes the same text take the longer way."""
    assert normalise(f"{text}|") == normalise(f"{text}|é").removesuffix("é")


@given(texts, texts)
def test_unicode_form_case_and_spaces_do_not_change_a_digest(prompt, completion):
    digest = content_digest(prompt, completion)
    assert digest == content_digest(f"  {prompt}\n", unicodedata.normalize("NFD", completion))
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab", "c"), ("a", "bc")), (("", "ab"), ("ab", "")), (("", "a b"), ("", "ab"))],
)
def test_different_contents_have_different_digests(one, other):
    assert content_digest(*one) != content_digest(*other)


def test_sharp_s_ligatures_and_full_width_letters_compare_alike():
    assert content_digest("Straße", "ﬁsh") == content_digest("STRASSE", "ＦＩＳＨ")


def test_entries_keep_their_order_and_know_their_place():
    probes = [{"kind": kind, "prompt": f"{kind}?", "completion": "yes"} for kind in ("paraphrase", "keep", "measure")]
    found = entries(create(forget=[item(probes=probes), {"passage": "A passage."}], retain=[item("Q?")]), "case-1")
    assert [(e.place, e.segment, e.role, e.parent) for e in found] == [
        ("forget.0", Segment.FORGET, Role.ITEM, None),
        ("forget.0.probes.0", Segment.FORGET, Role.PARAPHRASE, 0),
        ("forget.0.probes.1", Segment.RETAIN, Role.KEEP, 0),
        ("forget.0.probes.2", Segment.FORGET, Role.MEASURE, 0),
        ("forget.1", Segment.FORGET, Role.ITEM, None),
        ("retain.0", Segment.RETAIN, Role.ITEM, None),
    ]
    assert [e.position for e in found] == list(range(6))
    assert (found[4].prompt, found[4].completion) == ("", "A passage.")


def test_probes_take_the_subject_of_their_item():
    probe = {"kind": "measure", "prompt": "p?", "completion": "c"}
    found = entries(create(forget=[item(subject="ann", probes=[probe]), item("other?")]), "case-1")
    assert [e.subject for e in found] == ["ann", "ann", "case-1"]


def test_a_fact_is_found_whatever_its_case_and_a_missing_one_is_named():
    payload = create(
        forget=[
            item(
                facts=["oulu", "Ann  of"],
                probes=[{"kind": "paraphrase", "prompt": "p?", "completion": "She is Ann.", "facts": ["Oulu"]}],
            ),
            {"passage": "Fog over Vesper Row.", "facts": ["fog", "lamp"]},
        ]
    )
    faults = [fault.as_dict() for fault in missing_facts(entries(payload, "s"))]
    assert faults == [
        {"field": "forget.0.probes.0.facts.0", "problem": "fact 0 does not occur in the completion"},
        {"field": "forget.1.facts.1", "problem": "fact 1 does not occur in the passage"},
    ]


def test_duplicates_are_per_side_and_name_the_first():
    payload = create(forget=[item(), item("Other?"), item("WHO is  it?")], retain=[item("Third?"), item("third?")])
    assert [(fault.field, "forget.0" in fault.problem) for fault in duplicates(entries(payload, "s"))] == [
        ("forget.2", True),
        ("retain.1", False),
    ]


def test_contradictions_name_both_places_also_for_paraphrases_and_facts_to_keep():
    payload = create(
        forget=[
            item(probes=[{"kind": "paraphrase", "prompt": "b?", "completion": "b"}]),
            item("x?", probes=[{"kind": "keep", "prompt": "who is it?", "completion": "it is Ann of oulu."}]),
            item("y?", probes=[{"kind": "measure", "prompt": "c?", "completion": "c"}]),
        ],
        retain=[item("b?", "b"), item("c?", "c")],
    )
    pairs = [(fault.field, other) for fault, other in contradictions(entries(payload, "s"))]
    assert pairs == [("forget.0", "forget.1.probes.0"), ("forget.0.probes.0", "retain.0")]


def test_too_long_says_by_how_many_tokens():
    found = entries(create(forget=[item(), item("x?")]), "s")
    assert [fault.as_dict() for fault in too_long(found, [64, 70], 64)] == [
        {"field": "forget.1", "problem": "70 tokens, 6 more than the model's context of 64"}
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"prompt": "p?"},
        {"completion": "c"},
        {"prompt": "p?", "completion": "c", "passage": "x"},
        {"prompt": "p?", "passage": "x"},
        {"passage": ""},
        {"passage": "a\x00b"},
        {"passage": "x", "weight": 1},
    ],
)
def test_items_of_other_shapes_are_refused_without_repeating_them(bad):
    with pytest.raises(ValidationError) as caught:
        create(forget=[bad])
    assert "input_value" not in str(caught.value)


def test_texts_stay_out_of_reprs():
    payload = create(forget=[item(completion="The secret is Oulu.", facts=["Oulu"], subject="Oulu")], note="Oulu")
    assert "Oulu" not in repr(payload)
    assert "Oulu" not in repr(entries(payload, "s"))


@given(st.uuids())
def test_cursors_come_back_as_they_went(identity):
    assert id_of(cursor_of(identity)) == identity


@given(st.text(max_size=40))
def test_foreign_cursors_are_refused(text):
    with contextlib.suppress(BadCursor):
        assert isinstance(id_of(text), uuid.UUID)


@pytest.mark.parametrize("bad", ["", "!", "AAAA", cursor_of(uuid.UUID(int=1))[:-2], "é" * 23])
def test_broken_cursors_are_refused(bad):
    with pytest.raises(BadCursor):
        id_of(bad)


def test_an_unknown_model_names_the_known_ones_and_the_closest():
    problem = UnknownServedModel("poeple", ["people", "books"]).problem()
    assert problem["known"] == ["people", "books"]
    assert "did you mean 'people'?" in problem["detail"]
    assert "none is registered" in UnknownServedModel("x", []).detail
