"""Uploads an exported `datasets` folder to the Hugging Face hub, or to a server with the same API.

Apart from the database connection, the only module of storage that uses the network.
"""

import json
import re
from pathlib import Path

from storage.errors import InvalidInput, NotReady


def push_to_hub(
    folder: Path, repo: str, *, token: str | None = None, endpoint: str | None = None, private: bool = True
) -> str:
    """Upload the folder as the data set `repo` (owner/name) in one commit; returns the commit's URL.

    The repository is created if needed, by default private: an export holds people's messages. Without
    `token`, the one stored by `hf auth login` is used. Raises InvalidInput if the folder is not an export or
    `repo` is not a valid name, NotReady if the hub refuses.
    """
    for name in ("README.md", "manifest.json", "data/train.parquet"):
        if not (folder / name).is_file():
            raise InvalidInput(
                f"{folder} is not an exported datasets folder ({name} is missing); export with the format "
                f"datasets first.",
                field="folder",
            )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", repo):
        raise InvalidInput(f"{repo!r} is not a name on the hub, such as you/feedback.", field="repo")
    manifest = json.loads((folder / "manifest.json").read_text())

    # Imported here: it is slow to load and rarely needed.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    hub = HfApi(endpoint=endpoint, token=token)
    try:
        hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        commit = hub.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type="dataset",
            commit_message=f"Thumbloop export: {manifest['rows']} rows, sha256 {manifest['sha256'][:12]}",
        )
    except (HTTPError, OSError, ValueError) as error:
        raise NotReady(
            f"The hub did not take {repo}: {error}. Check the token and its right to write there.",
            code="push_failed",
        ) from error
    return str(commit.commit_url)
