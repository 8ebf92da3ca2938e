"""What counts as the same text, and what does not: a promise, since erasure wins over what is the same."""

from __future__ import annotations

import sys
import unicodedata
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from app.db import transaction
from app.requests.conflicts import content_digest
from app.tables import Example
from app.texts import IGNORABLE, normalise
from tests.app.service import Floor

NAME = "Mirela Tavaststjerna"
SAME = {
    "case": NAME.upper(),
    "spaces": "\u00a0Mirela \t\u3000 Tavaststjerna\n",
    "zero width space": "Mire\u200bla Tavast\u200bstjerna",
    "joiners": "Mire\u200dla Tavast\u200cstjerna",
    "byte order mark": "\ufeffMirela Tavaststjerna",
    "soft hyphen": "Mirela Tavast\u00adstjerna",
    "word joiner": "Mirela Tavast\u2060stjerna",
    "directional marks": "\u202eMirela\u202c \u2066Tavaststjerna\u2069\u200f",
    "variation selector": "Mirela\ufe0f Tavaststjerna",
    "tags": "Mirela Tavaststjerna\U000e0061\U000e007f",
    "full width": "".join(chr(ord(c) + 0xFEE0) if c != " " else c for c in NAME),
    "mathematical": "𝐌𝐢𝐫𝐞𝐥𝐚 𝒯avaststjerna",
}
OTHER = {
    "Cyrillic letters": "Mir\u0435la T\u0430vaststjerna",
    "a digit for a letter": "M1rela Tavaststjerna",
    "an accent": "Mir\u00e9la Tavaststjerna",
    "a mark that shows": "Mirela Tavast-stjerna",
    "one word less": "Tavaststjerna",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_texts_that_differ_in_what_nobody_sees_are_the_same(text: str) -> None:
    assert text != NAME and content_digest("", text) == content_digest("", NAME)


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_texts_of_other_signs_are_other_texts(text: str) -> None:
    """Homoglyphs too: to guess which were meant would make one text of two."""
    assert content_digest("", text) != content_digest("", NAME)


def test_composed_and_decomposed_forms_are_the_same() -> None:
    for text in ("Åström", "ﬁnance", "한국", "ǆ", "ẛ̣"):
        forms = {normalise(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
        assert len(forms) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_prompt_and_completion_are_kept_apart_and_folding_twice_changes_nothing(prompt: str, completion: str) -> None:
    assert normalise(normalise(prompt)) == normalise(prompt)
    if normalise(prompt) != normalise(completion):
        assert content_digest(prompt, completion) != content_digest(completion, prompt)


def test_every_format_character_that_shows_nothing_is_ignored() -> None:
    """But for those that prefix a number or mark up annotations and hieroglyphs, which show something."""
    kept = {
        f"{ord(sign):X}"
        for sign in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(sign) == "Cf" and ord(sign) not in IGNORABLE
    }
    shows = ("60", "6DD", "70F", "89", "8E2", "110BD", "110CD", "FFF9", "FFFA", "FFFB", "1343", "1344", "1345")
    assert {code for code in kept if not code.startswith(shows)} == set()


@pytest.mark.parametrize("text", ["\u200b", "\u2060\ufeff", " \u00ad \n", "\u202e\u202c", "\U000e0041", "\u3164"])
def test_a_text_of_nothing_that_shows_is_refused(shared: Floor, text: str) -> None:
    body = {"served_model": "people", "domain": "privacy", "forget": [{"passage": text}]}
    problem = shared.caller.call("requester", "POST", "/v1/requests", 422, json=body)
    assert "blank" in problem["detail"]


def test_erasure_wins_over_a_text_with_something_unseen_in_it_and_both_are_kept_as_sent(shared: Floor) -> None:
    """A retain item must not slip past an erasure by a sign that no reader sees."""
    forgotten, kept = f"{NAME} keeps bees.", f"{NAME} ke\u200beps be\u00ades."
    body = {"served_model": "people", "domain": "privacy"}
    wanted = body | {"forget": [{"passage": forgotten}]}
    forget = shared.caller.call("requester", "POST", "/v1/requests", 202, json=wanted)
    retain = shared.caller.call("other", "POST", "/v1/requests", 202, json=body | {"retain": [{"passage": kept}]})
    with transaction(shared.db) as session:
        row = session.scalars(select(Example).where(Example.request_id == uuid.UUID(retain["id"]))).one()
        assert (row.standing, str(row.erased_by_request_id)) == (False, forget["id"])
    shown = shared.caller.call("other", "GET", f"/v1/requests/{retain['id']}", params={"include": "items"})
    assert shown["contents"]["retain"][0]["completion"] == kept


@pytest.mark.parametrize("text", ["{prompt}", "{0.__class__}", "%s%n", "${jndi:ldap://x}", "{{7*7}}", "<|im_end|>"])
def test_a_text_fills_no_template_but_its_own_place(text: str) -> None:
    from app.tokens import count_tokens

    class Heard:
        def encode_batch_fast(self, texts: list[str], **_: object) -> list[object]:
            self.texts = texts
            return [type("E", (), {"ids": [1]})() for _ in texts]

    heard = Heard()
    count_tokens(heard, "<{prompt}>", [(text, text)])  # type: ignore[arg-type]
    assert heard.texts == [f"<{text}>", text]
