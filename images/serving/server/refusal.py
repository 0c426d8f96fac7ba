"""A request that is not served: its HTTP status and what to tell the client."""


class Refusal(Exception):
    """Carries the status, a 4xx or 5xx; the message names the field, what was expected and what came.

    `allow` lists the methods that a path does have, for a 405. `retry_after` is in seconds: a 503 that has it
    comes from a queue that is full, and one without it from a model that is not ready.
    """

    def __init__(self, status: int, message: str, *, allow: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow
        self.retry_after = retry_after
