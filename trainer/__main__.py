"""Command `python -m trainer run ID`: claims one training run and carries it out.

Exit codes: 0 the run is over, 1 it failed, 2 it could not start, 3 another trainer has it, 75 it was stopped
and waits to be resumed.
"""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

from trainer.launch.environment import loading, prepare_process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer")
    run = parser.add_subparsers(required=True).add_parser(
        "run", help="claim a training run and see it through"
    )
    run.add_argument("id", help="id of the run")
    run.add_argument("--owner", default=f"{os.uname().nodename}-{os.getpid()}", help="name to claim it under")
    run.add_argument("--print-log", action="store_true", help="print the log, for whoever started this")
    arguments = parser.parse_args()
    _be_considerate()
    prepare_process()
    if int(os.environ.get("RANK", "0")) > 0:  # one of several that torchrun or accelerate launch started
        with loading():
            from trainer.launch.worker import follow_launched
        follow_launched()
        return 0

    with loading():
        from storage.db.changed_settings import current_settings
        from storage.db.database import open_database
        from storage.errors import ThumbloopError
        from storage.settings import load_settings
        from trainer.launch.launcher import dismiss_launched
        from trainer.runs.attempt import attempt_run

    logging.getLogger("trainer").setLevel(logging.INFO)
    if sys.stderr.isatty():
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = load_settings()
        database = open_database(settings)
        try:
            with database.read() as session:
                settings = current_settings(session, settings)
            return attempt_run(
                *(database, settings, arguments.id), owner=arguments.owner, print_log=arguments.print_log
            )
        finally:
            database.close()
            dismiss_launched()
    except ThumbloopError as error:
        sys.stderr.write(f"{error.message}\n")
        return 2


def _be_considerate() -> None:
    """Give chats on this machine priority: they get the CPU first, and this process is killed first."""
    os.nice(5)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    sys.exit(main())
