"""One run of the model for the jobs that were taken together, and what became of each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.inference.waiting import Job
from server.model.answers import Answer
from server.model.served import Run, ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Jobs that one run answered, from `started` to `ended` in monotonic nanoseconds; or one that failed."""

    jobs: Sequence[Job]
    started: int
    ended: int
    outcome: Run | Exception

    @property
    def answers(self) -> Sequence[Sequence[Answer]]:
        """The answers of each job; none where it failed."""
        return self.outcome.answers if isinstance(self.outcome, Run) else ()


def run(served: ServedModel, jobs: Sequence[Job]) -> list[Done]:
    """Runs the model for all jobs at once. Where that fails each is tried alone: it costs only its own request."""
    started = time.monotonic_ns()
    outcome: Run | Exception
    try:
        outcome = served.answer_together([job.inputs for job in jobs])
    except Exception as error:  # noqa: BLE001 (it is this request's; the next one may be fine)
        if len(jobs) > 1:
            return [done for job in jobs for done in run(served, [job])]
        outcome = error
    return [Done(jobs=jobs, started=started, ended=time.monotonic_ns(), outcome=outcome)]
