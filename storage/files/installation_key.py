"""The installation's secret key, and the pseudonyms of people that it keys."""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from storage.errors import BadSetting
from storage.files.atomic import write_atomically
from storage.files.disk_full import is_full, no_room

FILE_NAME = "secret.key"


def load_secret(data_dir: Path) -> bytes:
    """The key: 32 random bytes, created at first use and readable by the owner only.

    Raises NotReady if the disk is full, BadSetting if the file has another length.
    """
    path = data_dir / FILE_NAME
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            if is_full(error):
                raise no_room(path, error.strerror) from error
            raise
    secret = path.read_bytes()
    if len(secret) != 32:
        raise BadSetting(f"{path} is damaged ({len(secret)} bytes, not 32); restore it from a backup.")
    return secret


def _make(path: Path) -> None:
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write_atomically(fresh, [secrets.token_bytes(32)], private=True)
        with suppress(FileExistsError):  # several processes can do this at once; the first one wins
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def pseudonym(salt: bytes, user_id: str) -> str:
    """A person's `user_hash`, 16 hex digits: the same in every export, and linked to them only by the key."""
    return hmac.digest(salt, user_id.encode(), "sha256").hex()[:16]
