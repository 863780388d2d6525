"""What a process that trains sets before it imports the libraries. Knows no run."""

import os
import warnings


def prepare_process() -> None:
    """Keep libraries from talking over the log, and from taking more than one GPU."""
    # The log is for people: two libraries warn in it of each other's new names, which nothing of ours uses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # One GPU: TRL refuses the several that transformers would take.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
