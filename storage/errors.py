"""Every error Thumbloop raises on purpose.

    ThumbloopError           status    who sees it; the message names the value and the remedy
    ├── InvalidInput         422       the person who sent it
    │   └── TooLarge         413       the person who sent it
    ├── NotAuthenticated     401       the caller without a valid token or session
    ├── NotAllowed           403       the caller, known, but not permitted
    ├── NotFound             404       the caller
    ├── Conflict             409       the caller; the current state forbids it
    │   └── RevisionConflict 412       the caller, who expected another revision
    ├── TooOften             429       the caller; try again after `retry_after` seconds
    ├── Busy                 503       the caller; try again after `retry_after` seconds
    ├── NotStored            507       the caller; the disk or the database failed, nothing was kept
    └── NotReady             500       the operator, at start-up or in a run; the CLI exits with 2
        ├── BadSetting                 the setting is wrong or unsafe
        ├── ModelUnavailable           the base model cannot be found or downloaded
        ├── ArtifactRefused  409       an adapter folder is damaged, foreign or unsafe
        └── LeaseLost                  the trainer no longer owns its run

The API turns these into one JSON shape, the CLI into one line on stderr.
"""


class ThumbloopError(Exception):
    """The base class. `code` is stable, for programs; `field` names the offending input."""

    status = 500
    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code is not None:
            self.code = code


class InvalidInput(ThumbloopError):
    status = 422
    code = "invalid_input"


class TooLarge(InvalidInput):
    status = 413
    code = "too_large"


class NotAuthenticated(ThumbloopError):
    status = 401
    code = "not_authenticated"


class NotAllowed(ThumbloopError):
    status = 403
    code = "not_allowed"


class NotFound(ThumbloopError):
    status = 404
    code = "not_found"


class Conflict(ThumbloopError):
    """`retry_after` is in seconds, set if waiting resolves the conflict."""

    status = 409
    code = "conflict"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, code=code, field=field)
        self.retry_after = retry_after


class RevisionConflict(Conflict):
    status = 412
    code = "revision_conflict"


class Busy(ThumbloopError):
    """The work is refused for now; `retry_after` is in seconds."""

    status = 503
    code = "busy"

    def __init__(self, message: str, *, retry_after: int = 5, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class TooOften(ThumbloopError):
    """This person is over their rate limit; `retry_after` is in seconds."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotStored(ThumbloopError):
    status = 507
    code = "not_stored"


class NotReady(ThumbloopError):
    status = 500
    code = "not_ready"


class BadSetting(NotReady):
    code = "bad_setting"


class ModelUnavailable(NotReady):
    code = "model_unavailable"


class ArtifactRefused(NotReady):
    status = 409
    code = "artifact_refused"


class LeaseLost(NotReady):
    code = "lease_lost"
