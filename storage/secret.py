"""The secret of this installation: it keys the pseudonyms in exports."""

import hmac
import os
import secrets
from pathlib import Path

from storage.errors import BadSetting

FILE_NAME = "secret.key"


def load_secret(data_dir: Path) -> bytes:
    """32 random bytes, made at first use and readable by their owner alone."""
    path = data_dir / FILE_NAME
    if not path.exists():
        aside = data_dir / f"{FILE_NAME}.{os.getpid()}"
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # of two processes that start at once, the first one's secret stays
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    secret = path.read_bytes()
    if len(secret) != 32:
        raise BadSetting(f"{path} is damaged ({len(secret)} bytes, not 32); restore it from a backup.")
    return secret


def pseudonym(salt: bytes, user_id: str) -> str:
    """What stands for a person in exports: the same in each, and not to be undone without the secret."""
    return hmac.digest(salt, user_id.encode(), "sha256").hex()[:16]
