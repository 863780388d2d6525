"""Parses the Retry-After header of other servers."""

import time
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 86_400.0


def seconds_to_wait(retry_after: str | None) -> float:
    """The header's seconds or date, as seconds from now; 0 if it is missing or invalid."""
    text = (retry_after or "").strip()
    try:
        wait = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_SECONDS)
