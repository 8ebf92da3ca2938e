"""Whether our figures of general ability are lm-eval's: the same questions through both, choice by choice.

    pip install 'grail-server[lm-eval]'
    python bench/lm_eval_agreement.py                       100 questions of ARC-Challenge, the bundled model, fp32
    python bench/lm_eval_agreement.py --task social_iqa --sample 50 --adapter DIR

lm-eval runs its own task definition (prompt, choices, metrics) on our network: only the data's place is replaced, by a
local file in the hub's format. Nothing is fetched. Compared are the prompts, letter by letter, the log-likelihoods and
the choices made. fp32, since lm-eval takes log-probabilities in the model's own precision and we in fp32.

lm-eval is an optional extra; nothing else here needs it. MMLU is compared subject by subject, as lm-eval's tasks are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from peft import LoraConfig

from grail.data.ability import TASKS, AbilityDataMissing, Question, load_task, sample
from grail.metrics.ability import NORMED, Answered, measure_ability
from grail.metrics.choices import DELIMITER
from grail.model.adapter import adapter_off
from grail.model.bundled import bundled_model
from grail.model.load import LoadedModel, load_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "general"
FOLDERS = {"mmlu": "mmlu/default", "arc_challenge": "arc", "truthfulqa_mc1": "truthfulqa", "race": "race"}
"""Where lm-eval's definition of a task lies, under its `tasks`; SIQA's file has a name of its own."""
ENOUGH = 0.99
"""Share of questions on which the two must choose alike: equal up to the order of floating-point sums."""


def hub_row(task: str, row: dict[str, Any]) -> dict[str, Any]:
    """One of our rows as the hub's data set of this task has it."""
    if task == "arc_challenge":
        labels = [chr(ord("A") + place) for place in range(len(row["choices"]))]
        choices = {"text": row["choices"], "label": labels}
        return {"question": row["question"], "choices": choices, "answerKey": labels[row["answer"]]}
    if task == "truthfulqa_mc1":
        labels = [int(place == row["answer"]) for place in range(len(row["choices"]))]
        return {"question": row["question"], "mc1_targets": {"choices": row["choices"], "labels": labels}}
    if task == "social_iqa":
        context, question = row["question"].split(" ", 1)  # lm-eval joins the two by a space again
        answers = dict(zip(("answerA", "answerB", "answerC"), row["choices"], strict=True))
        return {"context": context, "question": question, **answers, "label": str(row["answer"] + 1)}
    return row


def definition(task: str, subject: str) -> tuple[str, Path]:
    """lm-eval's name of a task (of MMLU: of a subject) and the file that defines it."""
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    if task == "social_iqa":
        return task, tasks / "siqa" / "siqa.yaml"
    name = f"mmlu_{subject}" if task == "mmlu" else task
    return name, tasks / FOLDERS[task] / f"{name}.yaml"


def write_task(place: Path, task: str, subject: str, rows: Sequence[dict[str, Any]]) -> str:
    """A task of lm-eval's own name and definition on a local file; its name."""
    name, original = definition(task, subject)
    data = place / f"{name}.jsonl"
    data.write_text("".join(json.dumps(hub_row(task, row)) + "\n" for row in rows), encoding="utf-8")
    changed = {
        "include": str(original), "task": name, "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test", "validation_split": None,
        "training_split": None, "fewshot_split": None,
    }  # fmt: skip
    (place / f"{name}.yaml").write_text(json.dumps(changed, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
    return name


def theirs(
    model: LoadedModel, task: str, questions: Sequence[Question], data: Path, batch: int
) -> list[dict[str, Any]]:
    """lm-eval's record of every question, in the questions' order."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = (data / TASKS[task][0]).read_bytes().split(b"\n")
    subjects: dict[str, list[Question]] = {}
    for question in questions:
        subjects.setdefault(question.subject, []).append(question)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        place, names = Path(directory), {}
        for subject, members in subjects.items():
            rows = [json.loads(lines[int(question.id.rpartition("/")[2]) - 1]) for question in members]
            names[write_task(place, task, subject, rows)] = members
        network = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch)
        result = simple_evaluate(
            model=network, tasks=list(names), num_fewshot=0, log_samples=True, bootstrap_iters=0,
            task_manager=TaskManager(include_path=str(place), include_defaults=False),
        )  # fmt: skip
        for name, members in names.items():
            for record in result["samples"][name]:
                found[members[record["doc_id"]].id] = record
    return [found[question.id] for question in questions]


def asked_alike(question: Question, record: dict[str, Any]) -> bool:
    """Whether lm-eval put the same context and the same choices."""
    put = [(context, choice) for context, choice in record["arguments"]]
    return put == [(question.context, DELIMITER + choice) for choice in question.choices]


def show(task: str, questions: Sequence[Question], ours: Sequence[Answered], records: Sequence[dict[str, Any]]) -> bool:
    """Print how far the two agree; whether it is enough."""
    count = len(questions)
    alike = sum(asked_alike(question, record) for question, record in zip(questions, records, strict=True))
    values = [[float(value) for value, _ in record["filtered_resps"]] for record in records]
    chosen = [row.index(max(row)) for row in values]
    same = sum(answer.chosen == choice for answer, choice in zip(ours, chosen, strict=True))
    judged = sum(answer.right == bool(record["acc"]) for answer, record in zip(ours, records, strict=True))
    far = max(
        abs(one - other)
        for answer, row in zip(ours, values, strict=True)
        for one, other in zip(answer.loglikelihoods, row, strict=True)
    )
    print(f"{task}: {count} questions")
    print(f"  put with the same prompt and choices: {alike} of {count}")
    print(f"  the same choice: {same} of {count}; judged alike by acc: {judged} of {count}")
    if task in NORMED:
        norm = sum(answer.right_norm == bool(record["acc_norm"]) for answer, record in zip(ours, records, strict=True))
        print(f"  judged alike by acc_norm: {norm} of {count}")
        judged = min(judged, norm)
    mine, their = sum(answer.right for answer in ours), sum(int(record["acc"]) for record in records)
    print(f"  right by acc: ours {mine}, lm-eval {their}; largest difference of a log-likelihood: {far:.2g} nats")
    return alike == count and min(same, judged) >= ENOUGH * count


def main() -> int:
    """0 when the two agree, or when lm-eval or the data is absent, which is said."""
    parser = argparse.ArgumentParser(description="Compare our measurement of general ability with lm-eval's.")
    parser.add_argument("--task", choices=tuple(TASKS), default="arc_challenge")
    parser.add_argument("--sample", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="directory of the base model (the bundled one)")
    parser.add_argument("--adapter", type=Path, help="adapter directory (none: the base model alone)")
    parser.add_argument("--batch", type=int, default=8, help="choices in one pass of lm-eval (%(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the tasks' files (%(default)s)")
    asked = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        import lm_eval  # noqa: F401  whether it is there
    except ImportError:
        print("skipped: lm-eval is not installed; pip install 'grail-server[lm-eval]'")
        return 0
    try:
        questions = sample(load_task(asked.data, asked.task), asked.sample, asked.seed)
    except AbilityDataMissing as error:
        print(f"skipped: {error}")
        return 0
    fresh = LoraConfig(r=1, target_modules="all-linear") if asked.adapter is None else None
    model = load_model(asked.base or bundled_model(), asked.adapter, precision="fp32", lora=fresh)
    with adapter_off(model.model) if asked.adapter is None else nullcontext():
        ours = measure_ability(model, questions)[asked.task].answers
        records = theirs(model, asked.task, questions, asked.data, asked.batch)
    return 0 if show(asked.task, questions, ours, records) else 1


if __name__ == "__main__":
    sys.exit(main())
