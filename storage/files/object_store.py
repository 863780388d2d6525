"""Folders in a store that fsspec reaches, such as a bucket. A folder is there once its manifest is.

The files go up first, and the manifest, with the size and the hash of each, is written last. So a reader
never finds half a folder, and an upload that was killed is begun again. Every file is hashed after it was
written and when it is fetched. What fails is tried again for a while.
"""

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from storage.errors import ArtifactRefused, BadSetting, StoreUnavailable
from storage.files.atomic import sync_tree
from storage.files.disk_full import is_full

log = logging.getLogger("thumbloop.storage")

ATTEMPTS_OF_S3FS = 2  # so that a download goes on where it was cut
UNKNOWN, MISSING = object(), object()
MANIFEST = "manifest.json"
BLOCK = 2**24  # bytes that are read at once
LONGEST_WAIT = 5.0  # seconds between two attempts
SILENCE_SECONDS = 30.0
SLOWEST = 250_000  # bytes a second of an upload that is not given up


class ObjectStore:
    """The folders below one address; safe to share between threads.

    Each call raises StoreUnavailable `patience` seconds after its first failure. `check` is called between
    attempts, and what it raises ends them. An attempt to upload is given up after `silence` seconds and the
    time that the file takes a slow network.
    """

    def __init__(
        self,
        address: str,
        options: Mapping[str, Any],
        *,
        patience: float,
        check: Callable[[], None] = lambda: None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.address = address.rstrip("/")
        self._patience, self._check, self._silence = patience, check, silence
        self._local = address.startswith("file:")
        import fsspec  # takes 50 ms, which only those who have a store need to wait for

        try:
            self._files, self._root = fsspec.url_to_fs(self.address, **self._options(options))
            self._files.retries = ATTEMPTS_OF_S3FS
        except ImportError as error:
            raise BadSetting(
                f"{address} needs another package: pip install 'thumbloop[s3]'.",
                field="artifacts",
            ) from error

    def hurried(self) -> "ObjectStore":
        """The same store, but a call that fails is not repeated."""
        hurried = copy(self)
        hurried._patience = 0.0
        return hurried

    def put(self, folder: str, files: Mapping[str, Path]) -> None:
        """Write these files, by their names in the folder; does nothing if the same ones are there."""
        known = self.manifest(folder)
        manifest = {name: _facts(path) for name, path in files.items()}
        if known == manifest:
            return
        if known is not None:  # nobody may read a mixture
            self.remove(f"{folder}/{MANIFEST}")
        for name, path in files.items():
            self._upload(f"{folder}/{name}", path, manifest[name])
        if self._local:
            sync_tree(Path(self._path(folder)))
        self.write(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())

    def upload(self, name: str, path: Path) -> None:
        """Write or replace one file, which belongs to no folder with a manifest."""
        self._upload(name, path, _facts(path))

    def put_newest(self, place: str, number: int, files: Mapping[str, Path]) -> None:
        """`put` into the folder of this number at a place, then remove those of lower numbers."""
        self.put(f"{place}/{number}", files)
        for older in self.numbers(place):
            if older < number:
                self.remove(f"{place}/{older}")

    def numbers(self, place: str) -> list[int]:
        """The numbers of the folders at a place, complete or not, the largest first."""
        return sorted(map(int, self.names(place)), reverse=True)

    def fetch(self, folder: str, target: Path) -> bool:
        """Fill an empty folder with the files of a complete one; False if there is none.

        Raises ArtifactRefused, which names the file, if one is damaged.
        """
        manifest = self.manifest(folder)
        if manifest is None:
            return False
        megabytes = sum(facts["bytes"] for facts in manifest.values()) / 10**6
        log.info("Fetching %.1f MB from %s/%s.", megabytes, self.address, folder)
        for name, facts in manifest.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise self._refused(f"{folder}/{MANIFEST}", f"it names {name!r}")
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            get = partial(self._files.get_file, self._path(f"{folder}/{name}"), str(path))
            if self._patiently(get, otherwise=MISSING) is MISSING:
                raise self._refused(f"{folder}/{name}", "it is missing")
            if _facts(path) != facts:
                raise self._refused(f"{folder}/{name}", "it has changed since it was written")
        return True

    def manifest(self, folder: str) -> dict[str, Any] | None:
        """Size and hash of each file of a complete folder; None if there is none."""
        content = self.read(f"{folder}/{MANIFEST}")
        if content is None:
            return None
        try:
            found = json.loads(content)
            return {name: {key: facts[key] for key in ("bytes", "sha256")} for name, facts in found.items()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise self._refused(f"{folder}/{MANIFEST}", "it is no manifest") from error

    def read(self, file: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        content: bytes | None = self._patiently(
            partial(self._files.cat_file, self._path(file)), otherwise=None
        )
        return content

    def write(self, file: str, content: bytes) -> None:
        """Write or replace a small file."""
        self._patiently(partial(self._write, file, content))

    def names(self, folder: str) -> list[str]:
        """The names of what is in a folder, complete or not."""
        found = self._patiently(partial(self._files.ls, self._path(folder), detail=False), otherwise=())
        return sorted(PurePosixPath(path).name for path in found)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all its contents, the manifest first; nothing if there is none."""

        def remove() -> None:
            for each in (f"{path}/{MANIFEST}", path):
                if self._files.exists(self._path(each)):
                    self._files.rm(self._path(each), recursive=True)

        self._patiently(remove)

    def _options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        # Listings that are kept would not show what others write.
        ours = {"skip_instance_cache": True, "use_listings_cache": False, **options}
        if self._local:
            return {"auto_mkdir": True, **ours}
        # Botocore and s3fs repeat failed calls five times each: a server that does not answer within the 15 s
        # that they wait would hold a call for minutes.
        return ours | {"config_kwargs": {"retries": {"max_attempts": 0}, **options.get("config_kwargs", {})}}

    def _upload(self, name: str, path: Path, facts: dict[str, Any]) -> None:
        def put() -> None:
            self._files.put_file(str(path), self._path(name), **self._at_most(facts["bytes"]))
            with self._files.open(self._path(name), "rb", block_size=BLOCK) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    raise OSError(f"{name} differs from what was sent")

        self._patiently(put)

    def _write(self, name: str, content: bytes) -> None:
        # Not every file system replaces a file at once; all rename, or copy, a complete one.
        aside = f"{name}.{secrets.token_hex(4)}"
        self._files.pipe_file(self._path(aside), content, **self._at_most(len(content)))
        self._files.mv(self._path(aside), self._path(name))

    def _at_most(self, size: int) -> dict[str, float]:
        """The time limit of an upload: the library's own begins only once all of it is sent."""
        return {} if self._local else {"timeout": self._silence + size / SLOWEST}

    def _patiently(self, work: Callable[[], Any], *, otherwise: Any = UNKNOWN) -> Any:
        """What `work` returns; `otherwise`, if that is given and there is no such file."""
        failed: list[float] = []  # when it did

        def attempt() -> Any:
            try:
                return work()
            except Exception as error:  # whatever the library of the protocol raises
                if isinstance(error, FileNotFoundError) and otherwise is not UNKNOWN:
                    return otherwise
                failed.append(time.monotonic())
                raise self._unavailable(error) from error

        retrying = Retrying(
            stop=lambda _: failed[-1] - failed[0] >= self._patience,
            wait=wait_exponential(multiplier=0.1, max=LONGEST_WAIT),
            retry=retry_if_exception_type(StoreUnavailable),
            before_sleep=self._before_sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _before_sleep(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            log.warning(
                "%s Trying again for %.0f s.", state.outcome and state.outcome.exception(), self._patience
            )
        self._check()

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        check = "Check the network, and the keys in AWS_ variables or THUMBLOOP_ARTIFACTS_OPTIONS."
        remedy = "Free some space, there or here." if is_full(error) else check
        why = f"{type(error).__name__}: {error}".removesuffix(": ")
        return StoreUnavailable(f"The artifact store {self.address} is unavailable ({why}). {remedy}")

    def _refused(self, name: str, why: str) -> ArtifactRefused:
        return ArtifactRefused(
            f"{self.address}/{name} is damaged: {why}. Restore it from a copy of the store, or train again."
        )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
