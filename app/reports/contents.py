"""What a report says, in its order: the verdict first, the evidence after it, the machinery in the annex. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.reports import diagrams, figures, prongs, words
from app.reports.blocks import (
    Block,
    Cards,
    Cell,
    Chart,
    Charts,
    Column,
    Notice,
    Page,
    Pairs,
    Part,
    Row,
    Said,
    Section,
    Table,
)
from app.reports.schemas import Document, Issued

MEANINGS = (
    "US (unlearning success): 100 less the share of the requested words that the model still predicts. A model that "
    "never knew does not reach 100: common words are predicted by everyone.",
    "cUS (calibrated success): US as a share of what a model that never knew shows, at most 100. This is forgetting.",
    "Forget gap: US less that of a model that never knew. Far above 0 the model was scarred: it is worse than one that "
    "never knew, and anyone can see where.",
    "RS (retention success): the share of the words of what is to stay that the model predicts. HS and cHS are the "
    "harmonic means of US and RS, and of cUS and RS.",
    "Perplexity: how surprised the model is by the true words; 1 is not at all. ROUGE-L: how much of the true words an "
    "answer shares.",
    "Before: the adapter that was served when the job began. After: the candidate. Never knew: the reference.",
)
NOTE = (
    "The state, the replicas, the approvals and the place in the audit log are as they stood when this was read; "
    "everything else is as it was issued."
)
DATA = (
    ("forget_items", "to be forgotten"),
    ("forget_items_in_base", "of these known to the base model"),
    ("retain_items", "to stay"),
    ("held_out", "of these kept out of training"),
    ("paraphrases", "asked in other words"),
    ("keep", "more about the same subjects that are to stay"),
    ("measure", "more about the same subjects, merely measured"),
    ("erased_earlier", "erased by earlier runs, measured again"),
)


def page(issued: Issued) -> Page:
    """The report as it stands now."""
    document = issued.document
    tone, badge, sentence = words.verdict(document, issued.state)
    sections = (
        Section("short", "In short", _short(document)),
        Section("requests", "Requests", (figures.requests(document),)),
        Section("checks", "Checks", (figures.checks(document),)),
        Section("prongs", "Extraction and queries (EDPB Opinion 28/2024)", tuple(_prongs(document))),
        Section("figures", "Figures", tuple(_figures(document))),
        Section("controls", "Controls and general ability", tuple(_controls(document))),
        Section("limits", "What this report does not show", (Said(tuple(document["limits"]), is_list=True),)),
        Section("replicas", "Serving replicas", tuple(_replicas(issued.replicas))),
        Section("approval", "Approval and audit log", tuple(_evidence(issued))),
        Section("versions", "Versions and digests", (_digests(issued),), is_annex=True),
        Section("training", "The unlearning run", tuple(_training(document)), is_annex=True),
        Section("regions", "Where the knowledge lies", tuple(_regions(document)), is_annex=True),
        Section("method", "Method settings", (_plain(document["method"]),), is_annex=True),
        Section("environment", "Times and environment", tuple(_environment(document)), is_annex=True),
        Section("examples", "Examples", tuple(_examples(document)), is_annex=True),
    )
    job = document["job"]
    return Page(
        title="Evaluation report",
        subtitle=f"Removal of knowledge from the model {job['served_model']}",
        tone=tone,
        badge=badge,
        verdict=sentence,
        facts=_facts(issued),
        sections=sections,
        signed=f"Report {issued.digest} of the job {job['id']}, state when read: {_state(issued)}.",
        statement="Read and signed for the controller. The annex on the following pages is part of the report.",
        note=NOTE,
    )


def _state(issued: Issued) -> str:
    return issued.state.replace("_", " ")


def _facts(issued: Issued) -> Pairs:
    job, model = issued.document["job"], issued.document["model"]
    start, candidate = (model[key] for key in ("start_adapter", "candidate_adapter"))
    return Pairs(
        (
            ("Served model", Cell(job["served_model"])),
            ("Adapter: before → candidate", Cell(words.change(start, candidate))),
            ("Job", Cell(job["id"], is_code=True)),
            ("State when read", Cell(_state(issued))),
            ("Begun", Cell(words.moment(job["started_at"] or job["created_at"]))),
            ("Finished", Cell(words.moment(job["finished_at"]))),
        )
    )


def _short(document: Document) -> tuple[Block, ...]:
    cards = Cards(
        (
            Said(tuple(words.asked(document)), "What was asked"),
            Said(tuple(words.forgotten(document)), "What was forgotten"),
            Said(tuple(words.stayed(document)), "What stayed"),
            Said(tuple(words.certainty(document)), "How sure this is"),
        )
    )
    known = words.known_before(document)
    return (Notice("wait", known), cards) if known else (cards,)


def _figures(document: Document) -> Iterable[Block]:
    yield Said(MEANINGS, "How to read the figures", is_list=True)
    if not document["metrics"]:
        yield Said(("Nothing was measured.",))
        return
    yield Part("Shares in percent")
    yield from _charts(*(diagrams.successes(document, domain) for domain in document["metrics"]))
    yield Said(("Whiskers are 95\u00a0% intervals over subjects, where there are ten or more.",))
    yield figures.summary(document)
    for domain, groups in document["metrics"].items():
        yield Part(f"All figures: {domain}")
        yield Said((_data(document["data"][domain]),))
        if groups:
            yield figures.measures(document, domain)


def _prongs(document: Document) -> Iterable[Block]:
    """The two questions of EDPB Opinion 28/2024, and which figures speak to which."""
    yield Said((prongs.INTRODUCTION,))
    domains = list(document["metrics"])
    for prong, title in prongs.TITLES.items():
        yield Part(title)
        yield Said((prongs.MEANINGS[prong],))
        for domain in domains:
            if found := prongs.figures(document, domain, prong):
                yield figures.prong(found, f"{title}: {domain}")
        yield Said(tuple(prongs.not_tested(document, domains, prong)), "Not tested", is_list=True)


def prong_blocks(prong: str, found: Mapping[str, Any]) -> Iterable[Block]:
    """The same of one question and one domain, as a certificate has it."""
    yield Said((prongs.MEANINGS[prong],))
    if found["figures"]:
        yield figures.prong(found["figures"], "All items of the request's domain in the job")
    yield Said(tuple(found["not_tested"]), "Not tested", is_list=True)


def _data(counts: Mapping[str, int]) -> str:
    shown = [f"{counts[key]:,} {name}" for key, name in DATA if counts.get(key)]
    return f"Items and questions: {'; '.join(shown) or 'none'}."


def _controls(document: Document) -> Iterable[Block]:
    """What the run is compared with, and what else the model can do."""
    if document.get("controls"):
        yield figures.controls(document)
    else:
        yield Said(("Controls (the same run with random regions, and with none): not run.",))
    found = document.get("general_ability")
    if found is None:
        yield Said(("General ability: not measured, since the served model's policy names no file of questions.",))
    elif found["not_measured"]:
        yield Notice("wait", f"General ability: not measured. {found['not_measured']}")
    else:
        yield figures.ability(found)
        yield Said((words.drawn(found),))
        yield Pairs((("SHA-256 of the file of questions", Cell(found["file_digest"], is_code=True)),))


def _evidence(issued: Issued) -> Iterable[Block]:
    if issued.approvals:
        yield figures.decisions(issued.approvals)
    else:
        yield Said(("No officer has decided about the candidate.",))
    place = issued.audit_position
    root_of, root = words.checkpoint(None if place is None else place["checkpoint"])
    rows = (
        Row((Cell("This report", words.place(place)), Cell(issued.digest, is_code=True))),
        Row((Cell("Root of the signed checkpoint", root_of), Cell(root or words.UNDEFINED, is_code=bool(root)))),
    )
    yield Table("What the audit log has", (Column("What", 1.3), Column("SHA-256", 2.0)), rows)


def _replicas(replicas: Iterable[Mapping[str, Any]]) -> Iterable[Block]:
    rows = tuple(_replica(replica) for replica in replicas)
    sentence = words.replicas([row.cells[0].text for row in rows])
    if not rows:
        yield Said((sentence,))
        return
    yield Notice("wait", sentence)
    columns = (Column("Replica", 2.0), Column("Serves"), Column("Acknowledged"))
    yield Table("Replicas that have not acknowledged the active version", columns, rows)


def _replica(replica: Mapping[str, Any]) -> Row:
    when = words.moment(replica["acknowledged_at"])
    return Row((Cell(replica["replica_id"], is_free=True), Cell(f"version {replica['version']}"), Cell(when)))


def _digests(issued: Issued) -> Table:
    model = issued.document["model"]
    start, candidate = model["start_adapter"], model["candidate_adapter"]
    rows = [
        ("This report", "as issued, without what is added at reading", issued.digest),
        ("Base model", model["base_path_name"], model["base_digest"]),
        ("Adapter before", start and start["name"], start and start["digest"]),
        ("Candidate", candidate and candidate["name"], candidate and candidate["digest"]),
        ("Model that never knew", model["reference"], None),
    ]
    shown = tuple(
        Row((Cell(what, name or "none"), Cell(digest or words.UNDEFINED, is_code=bool(digest))))
        for what, name, digest in rows
    )
    return Table("What the figures belong to", (Column("What", 1.0), Column("SHA-256", 2.0)), shown)


def _training(document: Document) -> Iterable[Block]:
    training = document["training"]
    if not training["steps"]:
        yield Said(("No step was taken: there was nothing to train on.",))
        return
    steps, planned, kept = (training[name] for name in ("steps", "planned_steps", "kept_step"))
    sentences = [f"Steps taken: {steps:,} of at most {planned:,}. Kept: the adapter after step {kept:,}."]
    if training["stopped_early"]:
        sentences.append(f"Stopped early: {training['stopped_early']}.")
    yield Said(tuple(sentences))
    yield from _charts(diagrams.losses(document), diagrams.checkpoints(document))


def _regions(document: Document) -> Iterable[Block]:
    every = [*document.get("earlier_regions", ()), document["regions"]]
    for number, regions in enumerate(every, start=1):
        if len(every) > 1:
            yield Part(f"Run {number} of {len(every)}: {_domains(regions)}")
        yield from _regions_of(document, regions)


def _domains(regions: Mapping[str, Any]) -> str:
    """The domains that a run localised in."""
    return ", ".join(sorted({label.partition("/")[0] for label in regions.get("examples", {})}))


def _regions_of(document: Document, regions: Mapping[str, Any]) -> Iterable[Block]:
    if not (regions["op_ur"]["count"] or regions["op_rr"]["count"]):
        yield Said(("No regions were located in this run: every entry of the adapter could change.",))
        return
    frozen = document["method"]["mask_rule"] == "frozen"
    if not regions["jaccard"]["labels"]:  # whole tensors, and no sets of entries that could overlap
        yield Said((f"Entries in whole tensors that were not trained at all: {_share(regions['op_ur'])}.",))
        return
    yield Said(
        (
            f"Entries of the adapter that matter to what goes and to what stays (OP-UR): {_share(regions['op_ur'])}. "
            f"{'Neither side changed them' if frozen else 'Forgetting left them as they were'}.",
            f"Entries that matter to everything that stays (OP-RR): {_share(regions['op_rr'])}. "
            f"{'Neither side changed them' if frozen else 'Retaining left them as they were'}.",
            *([f"Regions in this run: {regions['regions']}."] if "regions" in regions else []),
            "The same overlap layer by layer is in the JSON document.",
        )
    )
    yield from _charts(diagrams.overlap(regions))


def _share(region: Mapping[str, Any]) -> str:
    return f"{region['count']:,} ({words.number(100.0 * region['share'], 2)} % of all)"


def _charts(*found: Chart | None) -> Iterable[Block]:
    charts = tuple(chart for chart in found if chart is not None)
    if charts:
        yield Charts(charts)


def _environment(document: Document) -> Iterable[Block]:
    job = document["job"]
    times = {f"{name.replace('_', ' ')}, seconds": seconds for name, seconds in job["timings_seconds"].items()}
    moments = {name: words.moment(job[f"{name}_at"]) for name in ("created", "started", "finished")}
    yield _plain({**moments, "attempts": job["attempts"], **times})
    yield Part("Software and hardware kind")
    yield _plain(document["environment"])


def _examples(document: Document) -> Iterable[Block]:
    if not document["examples"]:
        yield Said(("No example was scored.",))
        return
    yield Said(("Ids only: no question, answer or name is part of a report. Subject ids are blinded.",))
    yield figures.examples(document)


def _plain(values: Mapping[str, Any]) -> Pairs:
    return Pairs(tuple((name, Cell(_value(value))) for name, value in values.items()))


def _value(value: Any) -> str:
    if value is None:
        return words.UNDEFINED
    return f"{value:g}" if isinstance(value, float) else str(value)
