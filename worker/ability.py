"""General ability around a run: questions of the operator's own, put to the model before and after, by likelihood.

They say whether the model was damaged where nobody looked, and decide nothing: a file that is away or can not be read
stops no erasure, the report says why there are no figures. Nothing of it is kept for a job that is started again: it is
a few seconds' work.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from grail.config import RunSpec, UnlearnConfig
from grail.data.ability import PROBES, BadQuestion, Question, load_probes, sample
from grail.metrics.ability import ROWS_AT_ONCE, Ability, measure_ability
from grail.metrics.choices import ChoiceTooLong, ChoiceWithoutToken
from grail.model.load import LoadedModel
from grail.report import general_ability
from grail.types import Progress, Report
from worker.device import with_smaller_batches

log = structlog.get_logger(__name__)

STAGE = "ability"


@dataclass(slots=True)
class Probing:
    """The questions of a run and how they were answered; `why_not` once something stood in the way."""

    config: UnlearnConfig
    report: Report
    questions: list[Question] = field(default_factory=list, repr=False)
    whole: int = 0
    digest: str | None = None
    why_not: str | None = None
    before: Ability | None = None
    after: Ability | None = None
    seconds: float = 0.0

    def ask(self, model: LoadedModel) -> Ability | None:
        """The model's answers, in smaller batches where memory runs out; None where it can not be asked. Raises
        NonFiniteScore, MemoryExhausted, and what `report` raises."""
        if self.why_not is not None:
            return None
        start, total, count = time.monotonic(), sum(len(question.choices) for question in self.questions), 0

        def done(more: int) -> None:
            nonlocal count
            count += more
            self.report(Progress(STAGE, min(count / total, 1.0)))

        def compute(fits: UnlearnConfig) -> dict[str, Ability]:
            return measure_ability(model, self.questions, fits.micro_batch, done)

        try:
            asked = replace(self.config, micro_batch=ROWS_AT_ONCE, activation_checkpointing="off")
            return with_smaller_batches(asked, compute)[PROBES]
        except (ChoiceTooLong, ChoiceWithoutToken):
            self.stop("A question of the file does not fit the model.")
            return None
        finally:
            self.seconds += time.monotonic() - start

    def stop(self, why: str) -> None:
        """Nothing is measured; `why` in a sentence that holds nothing of the file."""
        self.why_not, self.before, self.after = why, None, None
        log.warning("ability_not_measured", why=why)

    def as_dict(self) -> dict[str, Any]:
        """What the report says."""
        seed = self.config.seed
        return general_ability(self.digest, self.whole, seed, self.before, self.after, self.why_not)


def probing(spec: RunSpec, report: Report) -> Probing | None:
    """The sample of a run's questions; None where there is no file of them."""
    if spec.ability_file is None:
        return None
    found = Probing(spec.unlearn, report)
    try:
        found.digest = hashlib.sha256(spec.ability_file.read_bytes()).hexdigest()
        whole = load_probes(spec.ability_file)
    except OSError:
        found.stop("The file of questions is not there, or can not be read.")
    except BadQuestion as error:
        found.stop(f"Line {error.line} of the file of questions is none that can be read.")
    else:
        found.whole, found.questions = len(whole), sample(whole, spec.ability_questions, spec.unlearn.seed)
        if not whole:
            found.stop("The file of questions holds none.")
    return found


def around(probes: Probing | None, model: LoadedModel, run: Callable[[], Any]) -> Any:
    """What `run` comes to, with the questions asked before and, of the model as it leaves it, after. A run that changed
    nothing is not asked again."""
    if probes is None:
        return run()
    probes.before = probes.ask(model)
    outcome = run()
    probes.after = probes.before if outcome.state is None else probes.ask(model)
    outcome.timings[STAGE] = round(probes.seconds, 3)
    return outcome
