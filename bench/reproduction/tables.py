"""Tables of the reproduction, as Markdown and CSV, from raw results alone; rows ordered as they came out."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from reproduction.figures import draw_all
from reproduction.results import (
    RAW,
    Figures,
    Mean,
    figures,
    mean_over,
    of_grid,
    of_task,
    path_of,
    read,
    reference_key,
)
from reproduction.rows import GRID, ON_LUME, ROWS, SEEDS, Row, Task, learning_rate, queue

OUT = RAW.parent
GRAIL = "GRAIL ascent"
SERVICE = "GRAIL calibrated"

Line = list[str]
Found = dict[int, Figures]
"""Figures by seed."""


def write_all() -> None:
    """Write every table that has results, and every figure."""
    tables = [
        ("table_1_methods", "Table I: every method", methods()),
        ("table_1_fluency", "Table I, continued: perplexity and ROUGE-L", fluency()),
        ("table_4_ablations", "Table IV: ablations of GRAIL", ablations()),
        ("table_5_strategies", "Table V: strategies over the two domains", strategies()),
        ("table_6_lume", "Table VI: a second data set, LUME", lume()),
        ("objectives", "Objectives, with and without regions", objectives()),
        ("honest", "With the honest figures", honest()),
        ("paired", "Paired differences to GRAIL, by seed", paired()),
        ("grid", "The grid on the development half", grid()),
    ]
    texts = []
    for name, title, (head, lines) in tables:
        if lines:
            _csv(OUT / f"{name}.csv", head, lines)
            texts.append(f"## {title}\n\n{markdown(head, lines)}")
    pictures = draw_all(OUT)
    texts += [f"## {title}\n\n![{title}]({path.name})" for title, path in pictures]
    (OUT / "README.md").write_text(
        "# Reproduction\n\n" + preface() + "\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8"
    )


def preface() -> str:
    """What was run, by which command, at which commits."""
    done = [task for task in queue() if path_of(task.key).is_file()]
    commits = sorted({str(read(task.key)["commit"]) for task in done})
    seconds = sum(sum(read(task.key)["seconds"].values()) for task in done)
    return (
        f"Written by `python bench/paper.py tables` from the files in raw/: {len(done)} of {len(queue())} runs, "
        f"{seconds / 3600:.1f} hours of two cores, at {', '.join(f'`{commit}`' for commit in commits) or 'no commit'}. "
        "± is half of a 95 % interval over seeds (Student's t); rows without it ran on one seed."
    )


def found_of(row: Row, corpus: str = "knowundo", half: str = "table", leg: int = -1) -> Found:
    """A row's figures by seed, for the seeds that have been run."""
    tasks = [Task(corpus, half, row.name, seed) for seed in (SEEDS if row.is_claim else SEEDS[:1])]
    return {task.seed: of_task(task, leg) for task in tasks if path_of(task.key).is_file()}


def references(corpus: str = "knowundo", half: str = "table") -> dict[str, Figures]:
    """The rows without a seed, by name."""
    if not path_of(reference_key(corpus, half)).is_file():
        return {}
    rows = read(reference_key(corpus, half))["rows"]
    return {name: figures(measured, rows["adapter off"]) for name, measured in rows.items()}


def over_seeds(found: Found, name: str) -> Mean:
    """The mean of a figure over seeds."""
    return mean_over([figures_of[name] for figures_of in found.values()])


def lines_of(named: Iterable[tuple[str, Found]], names: Sequence[str], order: str) -> list[Line]:
    """One line a row: its name, its seeds, its figures; the highest `order` first."""
    rows = [(name, found) for name, found in named if found]
    rows.sort(key=lambda row: -over_seeds(row[1], order).value)
    return [[name, str(len(found)), *(str(over_seeds(found, figure)) for figure in names)] for name, found in rows]


def with_references(
    lines: list[Line], names: Sequence[str], corpus: str = "knowundo", half: str = "table"
) -> list[Line]:
    """The lines with the rows without a seed before them."""
    fixed = [[name, "", *(f"{row[figure]:.1f}" for figure in names)] for name, row in references(corpus, half).items()]
    return fixed + lines if lines else []


PAPER = ("us privacy", "rs privacy", "us copyright", "rs copyright", "hs", "avg success")
PAPER_HEAD = ["row", "seeds", "US privacy", "RS privacy", "US copyright", "RS copyright", "HS", "Avg. Succ."]
MAIN = (
    "gradient ascent", "random labels", "adversarial samples", "ascent + descent, ID", "ascent + descent, OOD",
    "ascent + KL, ID", "ascent + KL, OOD", "MemFlex", "GRAIL ascent", "GRAIL calibrated",
)  # fmt: skip

Table = tuple[list[str], list[Line]]


def methods() -> Table:
    """US, RS, HS and their mean, on validation rows."""
    lines = lines_of(((name, found_of(ROWS[name])) for name in MAIN), PAPER, "hs")
    return PAPER_HEAD, with_references(lines, PAPER)


def fluency() -> Table:
    """Perplexity and both ROUGE-L, on validation rows: of what is forgotten and of what stays."""
    head = ["row", "seeds"]
    lines: list[Line] = []
    named = [(name, {0: row}) for name, row in references().items()]
    named += [(name, {seed: f for seed, f in found_of(ROWS[name]).items() if seed == 0}) for name in MAIN]
    for domain in ("privacy", "copyright"):
        head += [f"PPL forget {domain}", f"PPL retain {domain}"]
        head += [f"ROUGE-L {kind} {part} {domain}" for part in ("forget", "retain") for kind in ("forced", "free")]
    for name, found in named:
        for row in found.values():
            line = [name, "1"]
            for domain in ("privacy", "copyright"):
                line += [perplexity(row[f"nll {part} {domain}"]) for part in ("val", "retain")]
                for part in ("forget_val", "retain_val"):
                    for kind in ("forced", "free"):
                        value = row.get(f"rouge_l_{kind} {part} {domain}")
                        line.append("" if value is None else f"{value:.1f}")
            lines.append(line)
    return head, lines


def perplexity(nll: float) -> str:
    """exp of a mean NLL, short; `inf` where it overflows."""
    try:
        value = math.exp(nll)
    except OverflowError:
        return "inf"
    return f"{value:.1f}" if value < 1e4 else f"{value:.1e}"


def ablations() -> Table:
    """What each of the two regions brings, at one objective."""
    names = (
        GRAIL, "GRAIL ascent, without OP-UR", "GRAIL ascent, without OP-RR", "GRAIL ascent, no regions",
        "GRAIL ascent, random regions", "GRAIL ascent, published masking", "GRAIL ascent, frozen",
        "GRAIL ascent, zscore",
    )  # fmt: skip
    return PAPER_HEAD, lines_of(((name, found_of(ROWS[name])) for name in names), PAPER, "hs")


def strategies() -> Table:
    """One domain alone (what the first leg of a sequence leaves), in sequence, together."""
    first = (("privacy only", "sequential P>C"), ("copyright only", "sequential C>P"))
    named = [(name, found_of(ROWS[row], leg=0)) for name, row in first]
    names = ("sequential P>C", "sequential C>P", "GRAIL ascent, no regions", GRAIL)
    named += [(name, found_of(ROWS[name])) for name in names]
    return PAPER_HEAD, lines_of(named, PAPER, "hs")


HONEST = (
    "cus requested privacy", "cus requested copyright", "gap requested privacy", "gap requested copyright",
    "rs privacy", "rs copyright", "chs",
)  # fmt: skip
HONEST_HEAD = [
    "row", "seeds", "cUS requested privacy", "cUS requested copyright", "gap privacy", "gap copyright", "RS privacy",
    "RS copyright", "cHS", "PPL ratio privacy", "PPL ratio copyright",
]  # fmt: skip


def honest() -> Table:
    """Calibrated success of what was requested, retention of what nobody trained on, distance from the reference."""
    ordered = sorted(((name, found_of(row)) for name, row in ROWS.items()), key=lambda r: -_chs(r[1]))
    lines = [_honest(name, found) for name, found in ordered if found]
    fixed = [_honest(name, {0: row}) for name, row in references().items()]
    return HONEST_HEAD, fixed + lines if lines else []


def _chs(found: Found) -> float:
    return over_seeds(found, "chs").value if found else 0.0


def _honest(name: str, found: Found) -> Line:
    ratios = [perplexity(over_seeds(found, f"log ppl ratio {domain}").value) for domain in ("privacy", "copyright")]
    return [name, str(len(found)), *(str(over_seeds(found, figure)) for figure in HONEST), *ratios]


def objectives() -> Table:
    """Every objective with localised and without regions: both mean figures."""
    pairs = [
        ("ascent", "GRAIL ascent"),
        ("calibrated", SERVICE),
        *((o, f"GRAIL {o}") for o in ("hinge", "npo", "simnpo")),
    ]
    lines = []
    for objective, name in pairs:
        for regions, row in (("localised", name), ("none", f"{name}, no regions")):
            if found := found_of(ROWS[row]):
                cells = [str(over_seeds(found, figure)) for figure in ("us", "rs", "hs", "cus requested", "chs")]
                lines.append([objective, regions, str(len(found)), *cells])
    return ["objective", "regions", "seeds", "US", "RS", "HS", "cUS requested", "cHS"], lines


def paired() -> Table:
    """Row minus GRAIL at the same seed: HS against GRAIL ascent, cHS against the service's default."""
    lines = []
    for figure, base in (("hs", GRAIL), ("chs", SERVICE)):
        own = found_of(ROWS[base])
        for row in ROWS.values():
            found = found_of(row)
            shared = sorted(set(found) & set(own))
            if row.is_claim and row.name != base and len(shared) > 1:
                difference = mean_over([found[seed][figure] - own[seed][figure] for seed in shared])
                lines.append([figure.replace("hs", "HS"), row.name, base, str(len(shared)), str(difference)])
    return ["figure", "row", "minus", "pairs", "difference"], lines


def lume() -> Table:
    """The second data set: one seed."""
    named = [(name, found_of(ROWS[name], "lume", "all")) for name in ON_LUME]
    figures_shown = (*PAPER[:-1], "cus requested", "chs")
    head = [*PAPER_HEAD[:-1], "cUS requested", "cHS"]
    return head, with_references(lines_of(named, figures_shown, "hs"), figures_shown, "lume", "all")


def grid() -> Table:
    """HS and cHS of each point, and the one that was chosen."""
    lines = []
    for row in ROWS.values():
        tasks = [Task("knowundo", "development", row.name, 0, point) for point in GRID]
        if row.is_claim and row.tuned_as == row.name and all(path_of(task.key).is_file() for task in tasks):
            chosen = learning_rate(Task("knowundo", "table", row.name, 0), of_grid)
            cells = [f"{of_task(task)['hs']:.1f} / {of_task(task)['chs']:.1f}" for task in tasks]
            lines.append([row.name, row.figure.replace("hs", "HS"), *cells, f"{chosen:g}"])
    return ["row (HS / cHS)", "chosen by", *(f"{point:g}" for point in GRID), "chosen"], lines


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])
