"""`grail teach`: teach a fresh LoRA adapter facts, as the demo's starting adapter was taught."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from cli.facts import Fact, demo_facts, read_facts
from cli.failures import CommandFailed
from grail.types import Example, Progress, Segment

console = Console()


def to_examples(facts: list[Fact]) -> list[Example]:
    """Every fact with its paraphrases, as retain examples."""
    rows = []
    for number, fact in enumerate(facts):
        asked = [(fact.prompt, fact.completion), *fact.paraphrases]
        rows += [
            Example(f"{number}.{place}", fact.domain, Segment.RETAIN, fact.subject, prompt, completion)
            for place, (prompt, completion) in enumerate(asked)
        ]
    return rows


def teach(
    out: Annotated[Path, typer.Option(help="Where the PEFT directory is written.")],
    facts: Annotated[list[Path] | None, typer.Argument(help="JSONL files; the demo's own when none is named.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="Base model directory; the bundled SmolLM2-135M by default.")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="Passes over all questions.")] = 7,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank, on all linear layers.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-9, max=1.0, help="Peak learning rate.")] = 2e-3,
    examples_per_step: Annotated[int, typer.Option(min=2)] = 8,
    retain_only: Annotated[bool, typer.Option(help="Teach the retain facts alone: a reference adapter.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Teach a LoRA adapter questions and answers until it knows them; prints the accuracy it reached."""
    import torch

    from grail.evaluate import measure
    from grail.model.adapter import save_adapter
    from grail.model.bundled import bundled_model
    from grail.model.load import load_model, lora_shape
    from grail.run import teach as train

    if base is not None and not (base / "config.json").is_file():
        raise CommandFailed(f"{base} holds no config.json", "Name the directory of a model in transformers' form.")
    chosen = [fact for path in facts for fact in read_facts(path)] if facts else demo_facts()
    chosen = [fact for fact in chosen if fact.segment == "retain" or not retain_only]
    torch.manual_seed(seed)  # a fresh adapter's A matrices are drawn by PEFT from the global generator
    model = load_model(base or bundled_model(), None, lora=lora_shape(rank))
    rows = to_examples(chosen)
    with Bar(console=console) as bar:
        task = bar.add_task(f"teaching {len(rows)} questions", total=None)

        def show(progress: Progress) -> None:
            loss = progress.losses.get("retain", 0)
            bar.update(task, total=progress.steps, completed=progress.step, description=f"loss {loss:.3f}")

        train(
            model, rows, passes=passes, examples_per_step=examples_per_step, learning_rate=learning_rate, seed=seed,
            report=show,
        )  # fmt: skip
    save_adapter(model.model, out)
    scores = measure(model, rows, generate=False)
    for kind, wanted in (("facts", True), ("paraphrases", False)):
        reached = [score.accuracy for key, score in scores.items() if key.endswith(".0") == wanted]
        console.print(f"accuracy {100 * sum(reached) / len(reached):.2f} % on {len(reached)} {kind}")
    console.print(f"written to {out}")
