"""The PDF: the same bytes for the same report, readable by machines, and a person's words stay words."""

from __future__ import annotations

import io
import os

import pytest
from pypdf import PdfReader
from report_documents import (
    BEHIND,
    VARIANTS,
    infinite_perplexity,
    issued,
    many_examples,
    rejected,
    sample,
    text_of_pdf,
    with_basis,
)

from app.reports import pdf

HARMFUL = (
    '#panic("x") #sys.version $x^2$ *bold* _it_ `raw` @cite <label> = Head \\ // gone /* gone */ #read("/etc/passwd") '
    '" + ] } ) https://example.org'
)


def test_the_same_report_gives_the_same_bytes_wherever_and_whenever():
    first = pdf.render(issued(sample()))
    zone = os.environ.get("TZ")
    try:
        os.environ["TZ"] = "Pacific/Auckland"
        assert pdf.render(issued(sample())) == first
    finally:
        os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
    assert pdf.render(issued(sample(), "failed")) != first
    assert pdf.render(issued(sample(), "published", BEHIND)) != first


def test_it_is_tagged_for_readers_and_for_the_archive():
    reader = PdfReader(io.BytesIO(pdf.render(issued(sample()))))
    catalogue = reader.trailer["/Root"]
    assert catalogue["/MarkInfo"]["/Marked"] and "/StructTreeRoot" in catalogue
    assert catalogue["/Lang"].startswith("en")
    metadata = catalogue["/Metadata"].get_object().get_data().decode()
    assert "<pdfaid:part>2</pdfaid:part>" in metadata and "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert reader.metadata is not None
    assert reader.metadata.title == "Evaluation report: Removal of knowledge from the model support-assistant"
    assert reader.metadata.creation_date is not None
    assert reader.metadata.creation_date.isoformat() == "2026-11-24T10:04:41+00:00"


def test_every_font_is_inside():
    for page in PdfReader(io.BytesIO(pdf.render(issued(sample())))).pages:
        for font in page["/Resources"]["/Font"].values():
            descendant = font["/DescendantFonts"][0].get_object()
            assert {"/FontFile2", "/FontFile3"} & set(descendant["/FontDescriptor"])


def test_there_is_a_place_to_sign_and_it_names_what_is_signed():
    report = issued(sample())
    text = text_of_pdf(pdf.render(report))
    assert "Name and function" in text and "Date" in text and "Signature" in text
    assert f"Report {report.digest} of the job {sample()['job']['id']}, state when read: published." in text


def test_a_persons_text_is_never_read_as_markup():
    shown = text_of_pdf(pdf.render(issued(with_basis(HARMFUL)))).replace(" ", "")
    assert HARMFUL.replace(" ", "") in shown
    assert "root:" not in shown


@pytest.mark.parametrize("length", [12, 20, 60])
def test_a_long_word_does_not_run_over_the_next_column(length):
    lines: list[int] = []

    def seen(text, *_):
        if set(text.strip()) - {"\u200b"} == {"W"}:
            lines.append(text.count("W"))

    content = pdf.render(issued(with_basis("W" * length)))
    PdfReader(io.BytesIO(content)).pages[0].extract_text(visitor_text=seen)
    assert sum(lines) in (length, length + 1)  # pypdf may repeat the last sign
    assert max(lines) <= 10  # so many of the widest letter fill the column


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Żądanie, § 97 UrhG, Ж, Ω, ½", "Żądanie, § 97 UrhG, Ж, Ω, ½"),
        ("删除请求", "[U+5220][U+9664][U+8BF7][U+6C42]"),
        ("a\u202eb\x07c😀", "a[U+202E]b[U+0007]c[U+1F600]"),
        ("α\u0651β", "α[U+0651]β"),
        ("ж\u1dd9\u0300Ǟ\u035c", None),
    ],
)
def test_what_the_fonts_lack_is_printed_as_its_code(text, shown):
    content = text_of_pdf(pdf.render(issued(with_basis(text)))).replace(" ", "")
    if shown is not None:
        assert shown.replace(" ", "") in content


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_a_job_ended_as_can_be_printed(variant):
    make, state = VARIANTS[variant]
    text = text_of_pdf(pdf.render(issued(make(), state)))
    assert "None" not in text and "Signature" in text


def test_it_says_what_the_page_says():
    text = text_of_pdf(pdf.render(issued(rejected(), "rejected", BEHIND)))
    assert "Rejected" in text and "84.97" in text and "did not hold" in text
    assert "1 serving replica has not acknowledged" in text
    assert "1.0 × 10^304" in text_of_pdf(pdf.render(issued(infinite_perplexity(), "rejected")))


def test_five_hundred_examples_are_printed():
    text = text_of_pdf(pdf.render(issued(many_examples())))
    assert all(f"0199f3a1-0000-7000-8000-{n:012d}" in text for n in range(500))
