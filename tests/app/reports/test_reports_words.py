"""Words, numbers, formats and the schema, without HTTP."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from report_documents import VARIANTS, in_base_only, infinite_perplexity, sample, unfinished

from app.reports import prongs, words
from app.reports.negotiation import NotAcceptable, choose
from app.reports.schemas import SCHEMA, Format, json_schema


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"), (math.nan, "n/a"), (math.inf, "∞"), (0.0, "0.0"), (-0.04, "0.0"), (-0.05001, "−0.1"),
        (1234.56, "1,234.6"), (99_999.94, "99,999.9"), (123_456.0, "1.2 × 10^5"), (-2.5e20, "−2.5 × 10^20"),
    ],
)  # fmt: skip
def test_numbers(value, shown):
    assert words.number(value) == shown


@given(st.floats(-200, 200), st.floats(-200, 200))
def test_a_value_is_shown_as_its_bound_only_when_they_are_as_good_as_equal(value, bound):
    shown, limit = words.against(value, bound)
    assert shown != limit or abs(value - bound) < 2e-6


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-24T10:04:41Z", "2026-11-24 10:04 UTC"),
        ("2026-11-24T10:04:41.123456+00:00", "2026-11-24 10:04 UTC"),
        ("2026-11-24T01:04:41+02:00", "2026-11-23 23:04 UTC"),
        ("2026-11-24T10:04:41", "2026-11-24 10:04"),
        (None, "n/a"),
    ],
)
def test_moments_are_in_one_zone(text, shown):
    assert words.moment(text) == shown


def test_every_check_of_the_gate_has_a_name_in_words():
    names = ("min_cus", "min_paraphrase_cus", "min_rs", "max_forget_gap", "max_ppl_ratio", "min_request_cus",
             "max_request_forget_gap", "min_request_rs", "forget_items", "retain_items",
             "certified_forget_items")  # fmt: skip
    assert all(words.check_name(name) in words.CHECKS.values() for name in names)
    assert words.check_name("min_politeness") == ("min_politeness", "")


def test_only_kinds_that_were_asked_for_are_named():
    document = sample()
    document["requests"] = document["requests"][:1]
    assert words.asked(document)[0] == "1 request (1 privacy): 4 items to be forgotten, 2 items named as to stay."


def test_nothing_is_certified_only_when_the_base_knows_everything():
    assert not words.certifies_nothing(sample())
    assert words.certifies_nothing(in_base_only())
    document = sample()
    for counts in document["data"].values():
        counts["forget_items"] = counts["forget_items_in_base"] = 0
    assert not words.certifies_nothing(document)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "json"), ("", "json"), ("*/*", "json"), ("text/html", "html"), ("TEXT/HTML;charset=utf-8", "html"),
        ("text/*", "html"), ("application/*", "json"), ("application/pdf, */*;q=0.1", "pdf"),
        ("application/json;q=0, */*", "html"), ("text/html;q=0.5, application/*;q=0.4", "html"),
        ("application/json;q=0.2, application/pdf;q=0.3, text/html;q=0.25", "pdf"),
        ("nonsense, text/html", "html"), ("text/html;q=much, application/pdf", "pdf"),
        ("application/pdf ; q=1.000", "pdf"),
        ("application/json;q=0.1, application/*;q=0.9", "pdf"),
    ],
)  # fmt: skip
def test_the_best_liked_format_is_chosen(accept, chosen):
    assert choose(None, accept) is Format(chosen)


@pytest.mark.parametrize("accept", ["image/png", "text/html;q=0", "nonsense", "text/plain, image/*", "*/*;q=0"])
def test_nothing_acceptable_is_refused(accept):
    with pytest.raises(NotAcceptable):
        choose(None, accept)


@given(st.text(max_size=60))
def test_no_accept_header_breaks_the_choice(accept):
    with contextlib.suppress(NotAcceptable):
        assert choose(None, accept) in Format


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema(), format_checker=FormatChecker())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_document_fits_the_schema(validator, variant):
    validator.validate(VARIANTS[variant][0]())


def test_the_schema_names_its_version():
    assert json_schema()["properties"]["schema"] == {"const": SCHEMA}


def harms() -> dict[str, Any]:
    """Documents with one thing wrong each."""
    found: dict[str, Any] = {}

    def harm(name: str, change: Any) -> None:
        found[name] = copy.deepcopy(sample())
        change(found[name])

    harm("text beside an example", lambda d: d["examples"][0].update(prompt="Where does she live?"))
    harm("an answer beside scores", lambda d: d["examples"][0]["after"].update(answer="In Ulm."))
    harm("a note on a request", lambda d: d["requests"][0].update(note="please"))
    harm("something more", lambda d: d.update(more=1))
    harm("a missing part", lambda d: d.pop("limits"))
    harm("a figure without its n", lambda d: d["metrics"]["privacy"]["forget"]["success"]["after"].pop("n"))
    harm("half an interval", lambda d: d["metrics"]["privacy"]["retain"]["success"]["after"].update(interval=[1.0]))
    harm("another outcome", lambda d: d["examples"][0].update(outcome="perhaps"))
    harm("another schema", lambda d: d.update(schema="grail.report/1"))
    harm("a share beyond one", lambda d: d["regions"]["op_ur"].update(share=1.1))
    return found


@pytest.mark.parametrize("harm", harms())
def test_what_does_not_belong_does_not_fit_the_schema(validator, harm):
    with pytest.raises(ValidationError):
        validator.validate(harms()[harm])


def test_each_question_of_the_opinion_has_its_figures_with_n_and_what_was_not_tested():
    document = sample()
    for domain, groups in document["metrics"].items():
        found = prongs.figures(document, domain, prongs.EXTRACTION)
        ratio = next(one for one in found if one["measure"] == prongs.PPL_RATIO)
        cells = groups["forget"]["perplexity"]
        assert ratio["after"] == cells["after"]["value"] / cells["reference"]["value"]
        assert (ratio["reference"], ratio["interval"]) == (1.0, None)
        for one in found + prongs.figures(document, domain, prongs.QUERIES):
            assert one["n"] > 0
            if one["measure"] != prongs.PPL_RATIO:
                cell = groups[one["group"]][one["measure"]]["after"]
                assert (one["after"], one["n"], one["interval"]) == (cell["value"], cell["n"], cell["interval"])
        asked = {(one["group"], one["measure"]) for one in prongs.figures(document, domain, prongs.QUERIES)}
        assert ("forget", "rouge_l_free") in asked and ("forget_paraphrase", "fact_in_answer") in asked
    said = " ".join(prongs.not_tested(document, document["metrics"], prongs.EXTRACTION))
    assert "gradients" in said and "membership inference" in said
    assert prongs.NO_FREE not in prongs.not_tested(document, document["metrics"], prongs.QUERIES)


def test_what_a_report_lacks_of_a_question_is_said_to_be_not_tested():
    document = unfinished()
    for groups in document["metrics"].values():
        groups.pop("forget_paraphrase")
    said = prongs.not_tested(document, document["metrics"], prongs.QUERIES)
    assert prongs.NOTHING in said and prongs.figures(document, "privacy", prongs.QUERIES) == []
    nothing = in_base_only()
    for prong in prongs.TITLES:
        assert prongs.not_tested(nothing, nothing["metrics"], prong)[0] == prongs.NOTHING
    endless = prongs.figures(infinite_perplexity(), "privacy", prongs.EXTRACTION)
    assert {one["measure"]: one["after"] for one in endless}["perplexity"] == "inf"


@pytest.mark.parametrize(
    ("due", "ended", "said"),
    [
        ("2026-12-20T09:10:00Z", "2026-11-24T10:04:41Z", "due 2026-12-20, 25 days left at the end"),
        ("2026-11-25T12:00:00Z", "2026-11-24T10:04:41Z", "due 2026-11-25, 1 day left at the end"),
        ("2026-11-20T09:10:00Z", "2026-11-24T10:04:41Z", "due 2026-11-20, 4 days late at the end"),
        ("2026-11-20T09:10:00Z", None, "due 2026-11-20"),
        (None, "2026-11-24T10:04:41Z", ""),
    ],
)
def test_the_clock_of_a_request_says_what_was_left_when_the_job_had_ended(due, ended, said):
    assert words.due(due, ended) == said
