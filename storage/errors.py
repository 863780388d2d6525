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
    │   └── StoreUnavailable 503       the same; the artifact store did not answer for long
    ├── NotStored            507       the caller; the disk or the database failed, nothing was kept
    └── NotReady             500       the operator, at start-up or in a run; the CLI exits with 2
        ├── BadSetting                 the setting is wrong or unsafe
        ├── ModelUnavailable           the base model cannot be found or downloaded
        ├── ArtifactRefused  409       an adapter folder is damaged, foreign or unsafe
        └── LeaseLost                  the trainer no longer owns its run

The API turns these into one JSON shape, the CLI into one line on stderr.
"""


class ThumbloopError(Exception):
    """The base class. `code` is stable, for programs; `field` names the offending input.

    `retry_after` is in seconds, and set if waiting helps. `values` fill the places such as {most} in the
    message; it is translated by its sentence with the places (app/web/languages.py).
    """

    status = 500
    code = "internal"
    retry_after: int | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after: int | None = None,
        **values: object,
    ) -> None:
        self.template, self.values = message, values
        self.message = message.format(**values) if values else message
        super().__init__(self.message)
        self.field = field
        self.code = code or self.code
        self.retry_after = retry_after or self.retry_after


class InvalidInput(ThumbloopError):
    status, code = 422, "invalid_input"


class TooLarge(InvalidInput):
    status, code = 413, "too_large"


class NotAuthenticated(ThumbloopError):
    status, code = 401, "not_authenticated"


class NotAllowed(ThumbloopError):
    status, code = 403, "not_allowed"


class NotFound(ThumbloopError):
    status, code = 404, "not_found"


class Conflict(ThumbloopError):
    status, code = 409, "conflict"


class RevisionConflict(Conflict):
    status, code = 412, "revision_conflict"


class Busy(ThumbloopError):
    status, code, retry_after = 503, "busy", 5


class StoreUnavailable(Busy):
    code = "store_unavailable"


class TooOften(ThumbloopError):
    status, code = 429, "rate_limit_exceeded"


class NotStored(ThumbloopError):
    status, code = 507, "not_stored"


class NotReady(ThumbloopError):
    status, code = 500, "not_ready"


class BadSetting(NotReady):
    code = "bad_setting"


class ModelUnavailable(NotReady):
    code = "model_unavailable"


class ArtifactRefused(NotReady):
    status, code = 409, "artifact_refused"


class LeaseLost(NotReady):
    code = "lease_lost"
