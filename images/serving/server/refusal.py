"""A request that is not served: its HTTP status and what to tell the client."""


class Refusal(Exception):
    """Carries the status, a 4xx or 5xx; the message names the field, what was expected and what came.

    `allow` lists the methods that a path does have, for a 405.
    """

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow
