"""A clock that a test sets by hand."""


class Clock:
    """Call it for the time in seconds; assign `now` to set it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
