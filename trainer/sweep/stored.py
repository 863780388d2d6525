"""Sweeps of an installation in its artifact store, so that other machines go on with them and show them.

The journal of a sweep only grows, so its length says which copy is the newest.
"""

import logging
import tempfile
from pathlib import Path

from storage.db.ids import is_id
from storage.errors import ArtifactRefused, Conflict, StoreUnavailable
from storage.files.object_store import ObjectStore
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import StoredArtifacts
from trainer.offline.out_folder import claimed_folder
from trainer.sweep.folder import JOURNAL, LOCK, PLOT, SWEEPS, TABLE

log = logging.getLogger(__name__)

FILES = (TABLE, PLOT, JOURNAL)  # the journal last: with it a folder is a sweep


def share_sweeps(artifacts: Artifacts) -> None:
    """Upload what is newer here and fetch what is newer there, if there is a store. Logs if it is away."""
    if not isinstance(artifacts, StoredArtifacts):
        return
    sweeps, store = artifacts.data_dir / SWEEPS, artifacts.store
    try:
        names = {*store.names(SWEEPS), *(path.name for path in sweeps.glob("*/"))}
        for name in filter(is_id, names):
            _share(store, sweeps / name, f"{SWEEPS}/{name}")
    except StoreUnavailable as error:
        log.warning("Sweeps are not shared with other machines for now. %s", error)


def _share(store: ObjectStore, folder: Path, place: str) -> None:
    journal = folder / JOURNAL
    here = journal.stat().st_size if journal.exists() else 0
    there = store.numbers(place)
    if here > max(there, default=0):
        files = {name: folder / name for name in FILES if (folder / name).exists()}
        store.put_newest(place, here, files)
    for length in there:
        if length <= here or _fetch(store, folder, f"{place}/{length}"):
            return


def _fetch(store: ObjectStore, folder: Path, place: str) -> bool:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        try:
            if not store.fetch(place, Path(part)):
                return False
            with claimed_folder(folder, LOCK, "works on the sweep in"):
                for name in FILES:
                    if (Path(part) / name).exists():
                        (Path(part) / name).replace(folder / name)
        except (ArtifactRefused, Conflict) as error:
            log.warning("The sweep %s of the artifact store is left out. %s", folder.name, error)
            return False
    return True
