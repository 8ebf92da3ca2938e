"""A certificate as a page: the outcome first, then what it rests on, then what it does not say. Pure but for the typing
of the file, which is the report's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.certificates import wording
from app.certificates.schemas import Shown
from app.reports import figures, html, pdf, words
from app.reports.blocks import Block, Cell, Column, Notice, Page, Pairs, Row, Said, Section, Table
from app.reports.contents import prong_blocks

Document = Mapping[str, Any]
NOTE = (
    "The request's state, the places in the audit log and the recipients of today are as they stood when this was "
    "read; everything else is as it was issued."
)


def as_html(shown: Shown) -> bytes:
    """One file that loads nothing, in UTF-8."""
    return html.file_of(page(shown))


def as_pdf(shown: Shown) -> bytes:
    """A4, tagged, for the archive. The same certificate read in the same state gives the same bytes."""
    at = datetime.fromisoformat(shown.document["issued_at"])
    return pdf.file_of(page(shown), f"Certificate {shown.digest[:16]}", int(at.timestamp()))


def page(shown: Shown) -> Page:
    """The certificate as it stands now."""
    document = shown.document
    tone, badge, sentence = wording.verdict(document, shown.as_read["state"])
    return Page(
        title="Certificate of erasure",
        subtitle=f"Removal of knowledge from the model {document['model']['served_model']}",
        tone=tone,
        badge=badge,
        verdict=sentence,
        facts=_facts(shown),
        sections=tuple(_sections(shown)),
        signed=f"Certificate {shown.digest} of the request {document['request']['id']}.",
        statement="Read and signed for the controller.",
        note=NOTE,
    )


def _sections(shown: Shown) -> Iterable[Section]:
    document = shown.document
    yield Section("clock", "The request and its clock", tuple(_clock(document)))
    yield Section("version", "The version that was published", tuple(_version(document)))
    yield Section("figures", "What was measured of this request", tuple(_figures(document)))
    for prong, found in document["prongs"].items():
        yield Section(prong, wording.prong_title(prong), tuple(prong_blocks(prong, found)))
    yield Section("limits", "What this certificate does not show", tuple(_limits(document)))
    yield Section("retest", "Until when it can be tested again", tuple(_retest(shown)))
    yield Section("recipients", "Who has older versions", tuple(_recipients(shown)))
    yield Section("evidence", "Approval and evidence", tuple(_evidence(shown)))


def _facts(shown: Shown) -> Pairs:
    document = shown.document
    request, job = document["request"], document["job"]
    adapter = document["model"]["adapter"]
    return Pairs(
        (
            ("Request", Cell(request["id"], is_code=True)),
            ("Domain", Cell(request["domain"])),
            ("Done", Cell(words.moment(document["clock"]["done_at"]))),
            ("Served version", Cell("unchanged" if adapter is None else str(adapter["version"]))),
            ("Job", Cell(job["id"], is_code=True)),
            ("Issued", Cell(words.moment(document["issued_at"]))),
        )
    )


def _clock(document: Document) -> Iterable[Block]:
    request, clock = document["request"], document["clock"]
    used = f"{words.number(clock['days_used'], 2)} of {words.number(clock['days_allowed'], 2)}"
    yield Pairs(
        (
            ("Regulation", Cell(wording.REGULATIONS.get(request["regulation"], request["regulation"]))),
            ("Legal basis, as stated", Cell(request["legal_basis"] or "not stated", is_free=True)),
            ("Asked", Cell(wording.asked(request))),
            ("Received", Cell(words.moment(clock["received_at"]))),
            ("Due", Cell(words.moment(clock["due_at"]))),
            ("Days used of those allowed", Cell(used, tone="good" if clock["in_time"] else "bad")),
        )
    )
    yield Said(tuple(wording.clock(clock)))
    if request["measured_as"] != request["id"]:
        yield Said((wording.linked(request["measured_as"]),))


def _version(document: Document) -> Iterable[Block]:
    model = document["model"]
    rows = (
        ("Base model", model["base_name"], model["base_digest"]),
        ("Adapter published with this erasure", *wording.adapter(model["adapter"])),
        ("Adapter that it replaced", *wording.adapter(model["replaces"])),
    )
    shown = tuple(
        Row((Cell(what, name), Cell(digest or words.UNDEFINED, is_code=bool(digest)))) for what, name, digest in rows
    )
    yield Table("Digests", (Column("What", 1.0), Column("SHA-256", 2.0)), shown)
    job = document["job"]
    yield Said((f"Method {job['method']}, objective {job['objective']}. Compared with: {model['reference']}.",))


def _figures(document: Document) -> Iterable[Block]:
    found = document["figures"]
    if not found["n"]:
        yield Notice("wait", wording.NOT_CERTIFIED)
    entries = [(name, Cell(words.number(found[key]))) for key, name in wording.FIGURES if found[key] is not None]
    yield Pairs((*entries, ("Items that these rest on", Cell(str(found["n"])))))
    gate = document["gate"]
    if gate["checks"]:
        yield Said((wording.gate(gate),))
        yield figures.checks_of(gate["checks"], "Checks of the request's domain, and its own")


def _limits(document: Document) -> Iterable[Block]:
    yield Said(tuple(document["limits"]), is_list=True)
    yield Said(tuple(document["report_limits"]), "From the report of the job", is_list=True)


def _retest(shown: Shown) -> Iterable[Block]:
    yield Said(tuple(wording.retest(shown.document["not_retestable_after"], shown.as_read)))


def _recipients(shown: Shown) -> Iterable[Block]:
    issued, now = shown.document["recipients"], shown.as_read["recipients"]
    if issued is None:
        yield Said(("No version was published with this erasure, so none became older by it.",))
        return
    columns = (Column("Who", 1.6), Column("When", 1.4), *(Column(name, 1.0, True) for name in wording.COUNTS.values()))
    rows = tuple(
        Row((Cell(who), Cell(when), *(Cell(str(counts[kind][name])) for name in wording.COUNTS)))
        for kind, who in wording.RECIPIENTS.items()
        for when, counts in (("when this was issued", issued), ("when this was read", now or issued))
    )
    caption = "Recipients of versions from before the erasure (GDPR, article 19)"
    yield Table(caption, columns, rows, stacks=True)


def _evidence(shown: Shown) -> Iterable[Block]:
    document = shown.document
    if document["approvals"]:
        yield figures.decisions(document["approvals"])
    else:
        yield Said(("The served model's policy asks nobody to approve: the gate alone decided.",))
    places = shown.as_read["audit"]
    rows = tuple(
        Row((Cell(what, where), Cell(digest or words.UNDEFINED, is_code=bool(digest))))
        for what, where, digest in (
            ("This certificate", words.place(places["certificate"]), shown.digest),
            ("Report of the job", words.place(places["report"]), document["job"]["report_digest"]),
            ("Root of the signed checkpoint", *wording.checkpoint(places)),
        )
    )
    yield Table("What the audit log has", (Column("What", 1.3), Column("SHA-256", 2.0)), rows)
    yield Said(("GET /v1/log/proofs/inclusion proves that a leaf is covered.",))
