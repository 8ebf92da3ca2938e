"""How fast the library is against the plain procedure, and which share of the machine it uses.

    python bench/speed.py                       everything, three repeats
    python bench/speed.py --repeats 5 --rows 96
    python bench/speed.py --general             the library without its fast path

Three kinds of work on the bundled model with the example adapter: localisation (per-example squared gradients of
three corruptions), one pass of masked unlearning (ascent, both regions, steps of 16) and the teacher-forced evaluation
of a checkpoint. The other side is what a user of transformers and PEFT writes and the published code does: one row
at a time, logits at every position, rows padded to a fixed length; and the same loop without padding. Both sides in the
precision that the service would choose on this machine, or in the one named by --precision.

Both sides run in one process, by turns, on the same threads. What is compared is seconds a row: the plain side is given
a few rows of the same length distribution, other ones each repeat. The machine may be shared and noisy: the ratio of
each repeat stands alone, and the lowest and highest are shown; process time is shown as a cross-check, and with
`--threads 1` on a busy machine it is the figure to read (threads that wait for each other there count their waiting).
Peak memory is of one process for each side.

The share of the peak is the arithmetic of grail/plan.py over real tokens (no padding) and seconds, over what a product
of two 2048 x 2048 matrices reaches in the same precision and run: once as plan.py counts (every draw whole, logits at
every token), once only what has to be computed (logits at label positions, a prompt that rows share once).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from plain import PlainModel, plain_evaluation, plain_localisation, plain_model, plain_unlearning
from provenance import commit

from grail.config import PRECISIONS, UnlearnConfig
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import corrupt, set_statistics
from grail.metrics.likelihood import forced
from grail.model.adapter import adapter_parameters, read_state, write_state
from grail.model.bundled import NAME, NOTE, bundled_model
from grail.model.load import LoadedModel, load_model, ordinary_tokens
from grail.objectives import descent
from grail.objectives.forget.ascent import ascent
from grail.plan import ModelShape
from grail.report import environment
from grail.train import make_side, take_step
from grail.types import Example, Segment

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = ROOT / "examples" / "adapter"
DATA = ROOT.parent / "shared" / "data" / "knowundo_privacy"
PADDED = {"localise": 500, "unlearn": 256, "evaluate": 256}
"""Tokens that the published code pads a row to, and what padding evaluation the same way as training comes to."""
PER_STEP = 16
SAMPLED = {"localise": 12, "evaluate": 48}
"""Rows of the plain side in one turn; half as many where they are padded."""
EVALUATED_AT_ONCE = 64
Rows = list[TokenisedExample]


@dataclass(frozen=True, slots=True)
class Data:
    """Tokenised rows of the two segments, in equal number, and all of them sorted by length."""

    forget: Rows = field(repr=False)
    retain: Rows = field(repr=False)

    @property
    def rows(self) -> Rows:
        """Both segments, shortest first."""
        return sorted([*self.forget, *self.retain], key=lambda row: (len(row.input_ids), row.id))

    def sample(self, count: int, turn: int) -> Rows:
        """`count` rows spread evenly over all lengths; another turn takes their neighbours."""
        rows, stride = self.rows, len(self.rows) / count
        return [rows[int((place + (turn * 0.37 + 0.5) % 1.0) * stride)] for place in range(count)]

    def halves(self, count: int, turn: int) -> tuple[Rows, Rows]:
        """The same of each segment."""
        forget, retain = (Data(side, []).sample(count // 2, turn) for side in (self.forget, self.retain))
        return forget, retain


def load_data(model: LoadedModel, count: int) -> Data:
    """`count` rows, half forget and half retain, spread over the people of the training files."""
    sides = []
    for segment in (Segment.FORGET, Segment.RETAIN):
        lines = (DATA / f"{segment}_train.jsonl").read_text(encoding="utf-8").splitlines()
        found = []
        for number, line in enumerate(lines):
            row = json.loads(line)
            example = Example(
                f"{segment}{number:03d}", "privacy", segment, row["subject"], row["prompt"], row["completion"]
            )
            found.append(model.tokenise(example))
        sides.append(Data(found, []).sample(min(count // 2, len(found)), 0))
    return Data(*sides)


@dataclass(slots=True)
class Ours:
    """The library's side: a loaded model and the masks of one domain."""

    model: LoadedModel
    config: UnlearnConfig
    masks: dict[str, torch.Tensor] = field(repr=False)

    def localise(self, rows: Rows) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Mean squared gradients of `rows`, and mean gradients."""
        return set_statistics(self.model, rows, self.config, torch.Generator().manual_seed(0))

    def unlearn(self, forget: Rows, retain: Rows) -> None:
        """One pass in steps of 16; the adapter is put back."""
        before = read_state(self.model.model)
        data = {("privacy", Segment.FORGET): forget, ("privacy", Segment.RETAIN): retain}
        half = PER_STEP // 2
        sides = [
            make_side(Segment.FORGET, data, ascent, self.config.forget_weight, self.masks, half, 0),
            make_side(Segment.RETAIN, data, descent, self.config.retain_weight, self.masks, half, 0),
        ]
        parameters = adapter_parameters(self.model.model).values()
        optimiser = torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=0.0)
        for step in range(max(1, len(forget) // half)):
            take_step(self.model, sides, optimiser, self.config, step)
        write_state(self.model.model, before)

    def evaluate(self, rows: Rows) -> dict[str, float]:
        """Token accuracy and NLL of `rows`; the NLL by id."""
        return {key: score.nll for key, score in forced(self.model, rows, EVALUATED_AT_ONCE).items()}


def ours(precision: str, *, fast: bool) -> Ours:
    """The model under the library, with masks of a tenth of each tensor (which entries does not matter to speed)."""
    model = load(precision, fast=fast)
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(parameter.shape, generator=generator) < 0.1
        for name, parameter in adapter_parameters(model.model).items()
    }
    return Ours(model, UnlearnConfig(learning_rate=1e-5), masks)


def load(precision: str, *, fast: bool) -> LoadedModel:
    """The bundled model with the example adapter."""
    return load_model(bundled_model(), ADAPTER, precision=precision, fast=fast)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a row: by the wall and of the process's threads."""

    wall: float
    cpu: float


def timed(work: Callable[[], object], rows: int) -> Timing:
    """Run once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing((time.perf_counter() - wall) / rows, (time.process_time() - cpu) / rows)


def peak_flop_per_second(precision: torch.dtype) -> Timing:
    """The best of several products of two 2048 x 2048 matrices: FLOP per second of the wall, and of process time
    of one thread."""
    left, right = (torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0)).to(precision) for _ in range(2))
    times = [timed(lambda: left @ right, 1) for _ in range(12)]
    work = 2.0 * 2048**3
    return Timing(work / min(t.wall for t in times), work / min(t.cpu for t in times))


KINDS = tuple(PADDED)
SIDES = ("ours", "plain", "padded")
Work = tuple[Callable[[], object], int]


def draws_of(mine: Ours, rows: Rows, turn: int) -> list[Rows]:
    """The corruptions of each row."""
    vocabulary, generator = ordinary_tokens(mine.model), torch.Generator().manual_seed(turn)
    return [[corrupt(row, vocabulary, generator) for _ in range(mine.config.draws)] for row in rows]


def our_work(kind: str, mine: Ours, data: Data) -> Work:
    """The library's side and its rows."""
    run: dict[str, Callable[[], object]] = {
        "localise": lambda: mine.localise(data.rows),
        "unlearn": lambda: mine.unlearn(data.forget, data.retain),
        "evaluate": lambda: mine.evaluate(data.rows),
    }
    return run[kind], len(data.rows)


def plain_work(kind: str, mine: Ours, plain: PlainModel, data: Data, turn: int, *, padded: bool) -> Work:
    """The plain side and its rows: few, since it is slow."""
    width = PADDED[kind] if padded else None
    if kind == "unlearn":
        forget, retain = data.halves(PER_STEP, turn)
        return lambda: plain_unlearning(plain, forget, retain, mine.masks, width), PER_STEP
    rows = data.sample(SAMPLED[kind] // (2 if padded else 1), turn)
    if kind == "localise":
        draws = draws_of(mine, rows, turn)
        return lambda: plain_localisation(plain, draws, width), len(rows)
    return lambda: plain_evaluation(plain, rows, width), len(rows)


def flop(mine: Ours, data: Data, kind: str, *, needed: bool) -> float:
    """FLOP a row by the formulas of grail/plan.py over real tokens.

    `needed` leaves out what has not to be computed: logits in front of the completion, a row's last token (nothing is
    predicted from it), and in localisation the prompt of all draws but one.
    """
    shape = ModelShape.from_config(mine.model.model.get_base_model().config.to_dict())
    entries = sum(parameter.numel() for parameter in adapter_parameters(mine.model.model).values())
    output = shape.vocabulary * shape.hidden
    draws = mine.config.draws if kind == "localise" else 1
    total = 0.0
    for row in data.rows:
        length, labels = len(row.input_ids), row.completion_length
        tokens, heads = draws * length, draws * (labels if needed else length)
        if needed:
            tokens = row.prompt_length + draws * (labels - 1)
        attention = 4 * shape.layers * shape.hidden * length * tokens
        forward = 2 * (shape.multiplied - output + entries) * tokens + 2 * output * heads + attention
        total += forward if kind == "evaluate" else 2 * forward + 2 * entries * tokens
    return total / len(data.rows)


Timings = dict[tuple[str, str], list[Timing]]


def measure(mine: Ours, plain: PlainModel, data: Data, kinds: list[str], repeats: int) -> tuple[Timings, Timing]:
    """Every side of every kind by turns, and the peak as the best of all turns; a short turn before is not counted."""
    found: Timings = {(kind, side): [] for kind in kinds for side in SIDES}
    warm = Data(data.forget[:8], data.retain[:8])
    peak = peak_flop_per_second(mine.model.precision)
    for turn in range(repeats):
        for kind in kinds:
            if turn == 0:
                our_work(kind, mine, warm)[0]()
            for side in SIDES:
                work = our_work(kind, mine, data) if side == "ours" else plain_work(
                    kind, mine, plain, data, turn, padded=side == "padded"
                )  # fmt: skip
                found[kind, side].append(timed(*work))
                print(f"  turn {turn} {kind:9} {side:7} {1000 * found[kind, side][-1].wall:9.1f} ms a row", flush=True)
            again = peak_flop_per_second(mine.model.precision)
            peak = Timing(max(peak.wall, again.wall), max(peak.cpu, again.cpu))
    return found, peak


def span(values: list[float], form: str) -> str:
    """Median and range."""
    low, middle, high = (format(v, form) for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}..{high})"


def name_of(precision: torch.dtype) -> str:
    """`bf16` or `fp32`."""
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[precision]


def show(mine: Ours, data: Data, kinds: list[str], found: Timings, peak: Timing) -> None:
    """Ratios and shares, each the median and the range of the repeats."""
    print(
        f"\npeak of a {name_of(mine.model.precision)} product of 2048 x 2048: {peak.wall / 1e9:.0f} GFLOP/s, "
        f"{peak.cpu / 1e9:.0f} in a second of process time"
    )
    for kind in kinds:
        mine_there = found[kind, "ours"]
        print(f"\n{kind}: ours {span([1000 * t.wall for t in mine_there], '.1f')} ms a row, n = {len(data.rows)}")
        for side in ("padded", "plain"):
            pairs = list(zip(found[kind, side], mine_there, strict=True))
            count = PER_STEP if kind == "unlearn" else SAMPLED[kind] // (2 if side == "padded" else 1)
            title = f"padded to {PADDED[kind]}" if side == "padded" else "unpadded"
            print(
                f"  batch 1, {title:13} {span([1000 * t.wall for t, _ in pairs], '.0f')} ms a row, n = {count} a turn; "
                f"ratio {span([a.wall / b.wall for a, b in pairs], '.1f')}, "
                f"of process time {span([a.cpu / b.cpu for a, b in pairs], '.1f')}"
            )
        for title, needed in (("as grail/plan.py counts", False), ("only what is needed", True)):
            work = flop(mine, data, kind, needed=needed)
            wall, cpu = ([100 * work / a / b for a, b in pairs] for pairs in (
                [(t.wall, peak.wall) for t in mine_there], [(t.cpu, peak.cpu) for t in mine_there],
            ))  # fmt: skip
            print(f"  share of the peak, {title}: {span(wall, '.0f')} %, of process time {span(cpu, '.0f')} %")


def peak_memory(kind: str, side: str, precision: str, general: bool) -> int:
    """Bytes: the peak of a process that does one kind of work of one side."""
    command = [sys.executable, str(Path(__file__)), "--memory-of", kind, side, "--precision", precision]
    command += ["--general"] if general else []
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_child(kind: str, side: str, rows: int, precision: str, *, fast: bool) -> None:
    """Do the work once and print this process's peak resident bytes; only the side's own model is loaded whole."""
    mine = ours(precision, fast=fast)
    data = load_data(mine.model, rows)
    work, _ = our_work(kind, mine, data)
    if side != "ours":
        plain = plain_model(bundled_model(), ADAPTER, mine.model.pad_id, mine.model.precision)
        work, _ = plain_work(kind, mine, plain, data, 0, padded=side == "padded")
        mine.model.model = mine.model.model.to("meta")
    work()
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed against the plain procedure.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96, help="of the library's side, half forget and half retain")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of work")
    parser.add_argument("--general", action="store_true", help="without the fast path")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of both sides; auto: as the service")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="skip the peaks of memory")
    parser.add_argument("--memory-of", nargs=2, metavar=("KIND", "SIDE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"the data is not there: put KnowUnDo's privacy half into {DATA}")
    torch.set_num_threads(asked.threads)
    if asked.memory_of:
        memory_child(*asked.memory_of, asked.rows, asked.precision, fast=not asked.general)
        return 0
    kinds = list(asked.kind or KINDS)
    mine = ours(asked.precision, fast=not asked.general)
    plain = plain_model(bundled_model(), ADAPTER, mine.model.pad_id, mine.model.precision)
    data = load_data(mine.model, asked.rows)
    print(f"{NAME}, {NOTE}; {len(data.rows)} rows of KnowUnDo's privacy half; {torch.get_num_threads()} threads")
    print(f"commit {commit()}; " + ", ".join(f"{n} {v}" for n, v in environment(mine.model).items()), flush=True)
    found, peak = measure(mine, plain, data, kinds, asked.repeats)
    show(mine, data, kinds, found, peak)
    if not asked.no_memory:
        print("\npeak memory of one process, MB")
        for kind in kinds:
            sizes = [f"{side} {peak_memory(kind, side, asked.precision, asked.general) / 1e6:.0f}" for side in SIDES]
            print(f"  {kind:9} " + ", ".join(sizes), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
