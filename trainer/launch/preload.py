"""What the fork server imports before it forks workers: their libraries, without any use of a GPU."""

import signal

# A service manager sends it to the whole session; the supervisor decides when its workers end.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

import trainer.launch.worker  # noqa: E402, F401
