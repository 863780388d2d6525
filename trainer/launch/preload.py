"""What the fork server imports before it forks workers: their libraries, without any use of a GPU."""

import signal

# A service manager sends it to the whole session; the supervisor decides when its workers end.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

from trainer.launch.environment import loading  # noqa: E402

with loading():
    import trainer.launch.worker  # noqa: F401
