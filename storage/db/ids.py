"""UUIDv7 ids: sortable by creation time, unguessable, safe in URLs."""

import os
import threading
import time
from datetime import datetime
from uuid import UUID

_lock = threading.Lock()
_last_tick = 0


def new_id(after: str | None = None) -> str:
    """A UUIDv7 (RFC 9562, section 5.7), strictly increasing within one process.

    48 bits of Unix milliseconds, 12 bits of sub-millisecond time (section 6.2, method 3), 62 random bits.
    It sorts after the id `after`, even if that was made by a clock that was ahead of this one.
    """
    global _last_tick
    with _lock:
        tick = max((time.time_ns() << 12) // 1_000_000, _last_tick + 1)
        _last_tick = tick
    if after is not None:
        tick = max(tick, _tick(after) + 1)
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62
    return str(UUID(int=value | int.from_bytes(os.urandom(8), "big") >> 2))


def _tick(made: str) -> int:
    value = UUID(made).int
    return (value >> 80) << 12 | (value >> 64) & 0xFFF


def first_id(moment: datetime) -> str:
    """An id that sorts before all that were made from this moment on, and after those made before."""
    return str(UUID(int=int(moment.timestamp() * 1000) << 80))


def is_id(text: str) -> bool:
    """Whether the text has the shape of an id; anything else cannot name a row."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
