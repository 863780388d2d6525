"""Writes an export to a bucket, at an address such as `s3://bucket/feedback.jsonl`."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from storage.errors import Conflict, InvalidInput
from storage.exports.exporter import MANIFEST_END, Export, export_to
from storage.files.object_store import ObjectStore

BUCKET = "s3://"
PATIENCE_SECONDS = 60.0


def export_to_bucket(
    address: str, options: Mapping[str, Any], export: Export, *, aside: Path
) -> dict[str, Any]:
    """Write the file with `<name>.manifest.json` next to it, or the `datasets` folder; returns the manifest.

    All of it is first in a folder within `aside`. The manifest goes up last, and one that it replaces is
    removed first, so a manifest describes what is there. `options` are those of the file system. Raises
    InvalidInput for an address without a name, Conflict for a folder that has something, StoreUnavailable.
    """
    folder, _, name = address.removeprefix(BUCKET).rpartition("/")
    if not folder or not name:
        raise InvalidInput(f"{address} names no file; write {BUCKET}BUCKET/NAME.", field="file")
    store = ObjectStore(f"{BUCKET}{folder}", options, patience=PATIENCE_SECONDS)
    inside = store.hurried().names(name)  # a wrong address is refused at once, before the work
    if export.plan.format == "datasets":
        if inside:
            raise Conflict(f"The folder {address} is not empty; remove it or name another.", field="file")
        manifest = f"{name}/manifest.json"
    else:
        manifest = f"{name}{MANIFEST_END}"
    with TemporaryDirectory(prefix="export-", dir=aside) as written:
        found = export_to(Path(written) / name, export)
        store.remove(manifest)
        files = [path for path in Path(written).rglob("*") if path.is_file()]
        names = {str(path.relative_to(written)): path for path in files}
        for each in sorted(names, key=lambda each: (each == manifest, each)):
            store.upload(each, names[each])
    return found
