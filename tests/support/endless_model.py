"""The tiny model for tests of streams: it never stops by itself, and one word makes it fail."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from tests.support.tiny_model import build_tiny_model

# So long that a stream which nobody cancels is still running whenever a test looks, however slow it is.
CONTEXT = 1 << 17
# A token of the tokenizer that the embeddings lack: a prompt with it raises IndexError in the model.
FATAL = "<unknown-to-the-model>"


def build_endless_model(folder: Path) -> Path:
    """Write the model to `folder`, which is made if absent, and return it."""
    build_tiny_model(folder, stops=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([FATAL])
    tokenizer.save_pretrained(folder)
    return folder
