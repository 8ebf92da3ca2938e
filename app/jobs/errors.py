"""What the service says when a job can not do what was asked, and what a worker hears that lost its job."""

from __future__ import annotations

import uuid

from app.errors import Conflict
from app.lifecycle import JobState


class LeaseLost(Exception):
    """The worker no longer holds the job: another one took it up, or it was cancelled. Nothing may be written."""

    def __init__(self, job_id: uuid.UUID, token: int) -> None:
        self.job_id, self.token = job_id, token
        super().__init__(f"the lease of job {job_id} with token {token} is gone: another worker has it, or it ended")


class NotCancellable(Conflict):
    """Too late."""

    type = "not-cancellable"
    title = "Only a queued or running job can be cancelled"
    mend = "A job that awaits approval can be refused by an officer; one that has ended is left as it is."

    def __init__(self, state: JobState = JobState.EVALUATED) -> None:
        super().__init__(f"the job is {state}", state=str(state))


class AlreadyApproved(Conflict):
    """Two approvals are two people's."""

    type = "already-approved"
    title = "This officer has approved the candidate already"
    mend = "Another officer must approve it too, with a key that does not follow yours."


class NotAwaitingApproval(Conflict):
    """Nothing to decide."""

    type = "not-awaiting-approval"
    title = "The job does not await approval"
    mend = "GET /v1/jobs?state=awaiting_approval lists those that do."

    def __init__(self, state: JobState = JobState.RUNNING) -> None:
        super().__init__(f"the job is {state}", state=str(state))
