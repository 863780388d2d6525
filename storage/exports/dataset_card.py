"""Writes the dataset card, README.md of an exported `datasets` folder: its contents and how to train on it.

Everything in it comes from the manifest, so the same export has the same card.
"""

import json
from typing import Any

from huggingface_hub import DatasetCardData

from storage.examples.weights import KEPT, Weights, class_weights
from storage.exports.shapes import PAIRED
from storage.settings import Settings

USAGE = {
    "kto": """```python
from datasets import load_dataset
from trl import KTOConfig, KTOTrainer

rows = load_dataset("path/to/this/folder", split="train")
trainer = KTOTrainer(
    model="your-model",
    args=KTOConfig(output_dir="out", desirable_weight={desirable}, undesirable_weight={undesirable}),
    train_dataset=rows,
)
trainer.train()
```""",
    "pairs": """```python
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

rows = load_dataset("path/to/this/folder", split="train")
trainer = DPOTrainer(model="your-model", args=DPOConfig(output_dir="out"), train_dataset=rows)
trainer.train()
```""",
    "sharegpt": """An entry for LLaMA-Factory's `dataset_info.json`:

```json
{{
  "thumbloop": {{
    "file_name": "path/to/this/folder/data/train.parquet",
    "formatting": "sharegpt",
    "columns": {{"messages": "conversations", "kto_tag": "kto_tag"}}
  }}
}}
```""",
    "swift": "`swift rlhf --rlhf_type kto --dataset FILE` of ms-swift reads the rows as JSON lines.",
    "openai": "As JSON lines, the rows are a file for preference fine-tuning.",
    "argilla": """The rows are records as Argilla exports them: `prompt` is a chat field,
`response` a text field, and `vote` a label question with the answers `up` and `down`.""",
}
MEANING = {
    "kto": "conversational unpaired preferences: `prompt` (messages), `completion` (one message), `label`",
    "kto-text": "plain-text unpaired preferences, the chat template applied: `prompt`, `completion`, `label`",
    "pairs": "preferences: `prompt` (messages), `chosen` and `rejected` (one message each)",
    "sharegpt": "ShareGPT conversations with LLaMA-Factory's `kto_tag`; the last turn is the rated one",
    "swift": "conversations in `messages`, of which the last is the rated one, with a `label`",
    "openai": "preferences: `input` (messages), `preferred_output` and `non_preferred_output`",
    "argilla": "records: `prompt` (messages), `response`, and the vote as a submitted response",
}

PSEUDONYMS = "Provenance columns follow; people appear as pseudonyms only."
NOBODY = "Who voted and when is left out."

CARD = """---
{metadata}
---

# Thumbloop feedback

Votes on a chat model's replies, as {meaning}. {people}

- Rows: {rows}
- Thumbs up: {up}, thumbs down: {down} ({imbalance})
- Snapshot: vote event {snapshot_event_id}; the last one in here is {largest_event_id}
- Filters: `{filters_json}`
- Duplicates: {duplicates}; contradictory votes: {contradictions}
{bos}{redacted}- Licence: {licence}
- Written by Thumbloop {software[version]}

| model version | up | down |
|---|---|---|
{versions_table}

## Use

{usage}

{kept}`manifest.json` has the sha256 of the data, all counts, and what was left out.
"""


def dataset_card(manifest: dict[str, Any]) -> str:
    """The card, beginning with the metadata block that the hub and `datasets` read."""
    up, down = manifest["votes"]["up"], manifest["votes"]["down"]
    shape = manifest["shape"]
    cap = Settings.model_fields["max_weight"].default
    rows = manifest["labels"]  # TRL weighs every row alike
    weights = class_weights(rows["up"], rows["down"], cap) if up and down else Weights(1.0, 1.0)
    kept = f"The weights above keep desirable_weight × up / (undesirable_weight × down) {KEPT}.\n\n"
    redacted = ""
    if (redaction := manifest["redaction"]) is not None:
        engine = redaction["engines"]["presidio-analyzer"]
        redacted = f"- Personal data replaced by Presidio {engine}: {', '.join(redaction['entities'])}\n"
    begins = "- Every text begins with `{bos}`: tokenise with `add_special_tokens=False`\n"
    return CARD.format(
        **manifest | {"bos": begins.format(bos=manifest["bos"]) if manifest["bos"] else ""},
        metadata=_metadata(manifest),
        meaning=MEANING[shape],
        people=NOBODY if shape == "openai" else PSEUDONYMS,
        up=up,
        down=down,
        imbalance=f"{up / down:.2f} up for each down" if up and down else "one kind only",
        filters_json=json.dumps(manifest["filters"], ensure_ascii=False),
        redacted=redacted,
        versions_table="\n".join(
            f"| {name or 'not generated here'} | {votes['up']} | {votes['down']} |"
            for name, votes in manifest["versions"].items()
        ),
        usage=USAGE["kto" if shape == "kto-text" else shape].format(
            desirable=f"{weights.desirable:.4f}", undesirable=f"{weights.undesirable:.4f}"
        ),
        kept=kept if shape not in PAIRED and up and down else "",
    )


def _metadata(manifest: dict[str, Any]) -> str:
    return DatasetCardData(
        license=manifest["licence"],
        pretty_name="Thumbloop feedback",
        task_categories=["text-generation"],
        tags=["kto", "trl", "preference", "human-feedback", "thumbloop"],
        size_categories=[_size_category(manifest["rows"])],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}
        ],
    ).to_yaml()


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[min(max(len(str(rows)) - 3, 0), len(names) - 1)]
