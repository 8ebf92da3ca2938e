"""The HTML file: it stands alone, runs nothing, and shows a person's words as words."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape

import pytest
from report_documents import (
    BEHIND,
    VARIANTS,
    in_base_only,
    infinite_perplexity,
    issued,
    many_examples,
    read_html,
    rejected,
    sample,
    text_of_html,
    with_basis,
    without_regions,
)

from app.reports import html
from app.reports.blocks import Chart
from app.reports.charts import Bar, BarGroup, bars
from app.reports.diagrams import checkpoints, losses, overlap, successes

HARMFUL = "</td><script>alert(1)</script><img src=x onerror=alert(2)> \"'&lt; javascript:alert(3)"


def test_it_stands_alone_and_runs_nothing():
    content = html.render(issued(sample(), "published", BEHIND))
    page = read_html(content)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "form", "input", "base", "image"}
    fetching = [(n, v) for n, v in page.attributes if n in {"src", "srcset", "href", "xlink:href", "data", "action"}]
    assert fetching and all(name == "href" and value.startswith("#") for name, value in fetching)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert "url(" not in content.decode() and "@import" not in content.decode()
    outside = set(re.findall(r"https?://[^\"' ]+", content.decode()))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_its_links_lead_to_its_sections():
    page = read_html(html.render(issued(sample())))
    targets = [value.removeprefix("#") for name, value in page.attributes if name == "href"]
    assert targets == [value for name, value in page.attributes if name == "id"]


def test_its_policy_lets_in_exactly_its_own_style_sheet():
    content = html.render(issued(sample())).decode()
    (sheet,) = re.findall(r"<style>(.*?)</style>", content, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    assert html.content_policy() == (
        f"default-src 'none'; style-src 'sha256-{known}'; base-uri 'none'; form-action 'none'"
    )
    policies = [value for name, value in read_html(content.encode()).attributes if name == "content"]
    assert html.content_policy() in policies


def test_a_persons_text_is_shown_as_it_is_and_never_as_markup():
    plain, harmed = (read_html(html.render(issued(with_basis(text)))) for text in ("x", HARMFUL))
    assert harmed.tags == plain.tags
    assert HARMFUL in harmed.texts


def test_other_texts_of_the_document_are_escaped_too():
    document = sample()
    document["model"]["base_path_name"] = document["limits"][0] = document["job"]["served_model"] = HARMFUL
    document["environment"]["platform"] = document["training"]["stopped_early"] = HARMFUL
    document["regions"]["jaccard"]["labels"][0] = HARMFUL
    document["metrics"] = {f"<b>{domain}": found for domain, found in document["metrics"].items()}
    document["data"] = {f"<b>{domain}": found for domain, found in document["data"].items()}
    replica = {**BEHIND, "replica_id": HARMFUL}
    page = read_html(html.render(issued(document, "published", replica)))
    assert not set(page.tags) & {"script", "img", "b"}
    assert sum(HARMFUL in text for text in page.texts) >= 6


def test_signs_that_hide_or_turn_text_are_shown_as_their_codes():
    text = text_of_html(html.render(issued(with_basis("Art. 17 \u202etxet\u202c \u200b\x07 Ж 中文 نص"))))
    assert "Art. 17 [U+202E]txet[U+202C] [U+200B][U+0007] Ж 中文 نص" in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_a_job_ended_as_can_be_read(variant):
    make, state = VARIANTS[variant]
    text = text_of_html(html.render(issued(make(), state)))
    assert "None" not in text and "nan" not in text.casefold().split()


def test_verdict_and_reasons_stand_on_top():
    tops = {
        name: text_of_html(html.render(issued(make(), state))).split("In short")[0]
        for name, (make, state) in VARIANTS.items()
    }
    assert "Published" in tops["published"] and "version 42 of the adapter was published" in tops["published"]
    assert "an officer has to approve version 42" in tops["awaiting approval"]
    assert "turned down" in tops["turned down"] and "publishing failed" in tops["publishing failed"]
    assert "not yet published" in tops["evaluated"]
    assert "Rejected" in tops["rejected"] and "1 of 21 checks did not hold" in tops["rejected"]
    assert "nothing is certified" in tops["in base only"] and "check held" not in tops["in base only"]
    assert "No change, nothing certified" in tops["in base only"]
    assert "version 41, unchanged" in tops["in base only"]


def test_a_value_just_beside_its_bound_is_not_rounded_onto_it():
    text = text_of_html(html.render(issued(rejected(), "rejected")))
    assert "Copyright, retention: success on what stays (RS), is 84.97 %, where at least 85.00 % was asked for" in text
    assert "84.97" in text.split("Checks")[-1]


def test_what_the_base_knows_is_said_plainly():
    some = text_of_html(html.render(issued(sample())))
    assert "1 of 17 items to be forgotten is known to the base model itself" in some
    every = text_of_html(html.render(issued(in_base_only())))
    assert "17 of 17 items to be forgotten are known to the base model itself" in every
    assert every.count("not certified") >= 6  # a check a domain and a request
    assert "No step was taken" in every and "No regions were located" in every


def test_what_is_endless_is_said_so():
    text = text_of_html(html.render(issued(infinite_perplexity(), "rejected")))
    assert "∞ the interval is not finite" in text
    assert "1.0 × 10^304" in text
    assert "inf " not in text


def test_small_samples_are_marked_and_large_ones_have_their_interval():
    document = sample()
    text = text_of_html(html.render(issued(document)))
    assert "Requested facts 2 subjects: small sample, no intervals" in text
    low, high = document["metrics"]["privacy"]["retain"]["success"]["after"]["interval"]
    assert f"{low:.1f} to {high:.1f}" in text


def test_every_measure_is_there_before_after_and_under_the_reference():
    document = sample()
    text = text_of_html(html.render(issued(document)))
    for groups in document["metrics"].values():
        for measures in groups.values():
            for name, cells in measures.items():
                digits = 2 if name == "perplexity" else 1
                for cell in cells.values():
                    if cell["value"] is not None:
                        assert f"{cell['value']:.{digits}f}".replace("-", "−") in text
    for figures in document["summary"].values():
        assert f"{figures['after']['hs']:.1f}" in text and f"{figures['after']['chs']:.1f}" in text


def test_five_hundred_examples_are_folded_away():
    content = html.render(issued(many_examples()))
    page = read_html(content)
    assert page.tags.count("details") == 1
    assert sum(text.startswith("0199f3a1-0000-7000-8000-") for text in page.texts) == 500
    assert len(content) < 2_000_000


def test_charts_show_what_the_tables_say_and_speak_to_those_who_can_not_see_them():
    document = sample()
    drawn = [successes(document, "privacy"), losses(document), checkpoints(document), overlap(document["regions"])]
    for chart in drawn:
        assert isinstance(chart, Chart)
        assert chart.svg.startswith("<svg ") and f'aria-label="{escape(chart.alt)}"' in chart.svg
    scores = drawn[2]
    assert scores is not None and "kept: step 140" in scores.svg and "Kept: step 140" in scores.alt
    shares = drawn[0]
    assert shares is not None and "Facts that are to stay: retention success (RS): before 97.6" in shares.alt
    assert shares.svg.count('class="whisker"') == 3 * 6  # three strokes for each of three RS and three free answers
    assert drawn[3] is not None and "privacy forget and privacy retain 0.52" in drawn[3].alt


def test_without_data_there_is_no_chart():
    document = without_regions(in_base_only())
    assert (losses(document), checkpoints(document), overlap(document["regions"])) == (None, None, None)
    document["metrics"]["privacy"] = {}
    assert successes(document, "privacy") is None


def test_bars_and_whiskers_stay_inside_their_chart():
    drawn = bars([BarGroup("x", (Bar("after", 130.0, -20.0, 250.0, "130"),))], legend=[], alt="x")
    edges = [float(x) for x in re.findall(r'class="whisker" d="M([\d.]+)', drawn)]
    assert edges and all(10.0 <= x <= 316.0 for x in edges)
    (width,) = re.findall(r'class="bar bar-after"[^>]* width="([\d.]+)"', drawn)
    assert float(width) == 306.0
