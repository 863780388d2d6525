"""Writes the dataset card, README.md of an exported `datasets` folder: its contents and how to train on it.

Everything in it comes from the manifest and the licence, so the same export has the same card.
"""

import json
from typing import Any

from huggingface_hub import DatasetCardData

from storage.examples.weights import KEPT, class_weights
from storage.settings import Settings

USAGE = {
    "kto": """from datasets import load_dataset
from trl import KTOConfig, KTOTrainer

rows = load_dataset("path/to/this/folder", split="train")
trainer = KTOTrainer(
    model="your-model",
    args=KTOConfig(output_dir="out", desirable_weight={desirable}, undesirable_weight={undesirable}),
    train_dataset=rows,
)
trainer.train()""",
    "pairs": """from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

rows = load_dataset("path/to/this/folder", split="train")
trainer = DPOTrainer(model="your-model", args=DPOConfig(output_dir="out"), train_dataset=rows)
trainer.train()""",
    "sharegpt": """{{
  "thumbloop": {{
    "file_name": "path/to/this/folder/data/train.parquet",
    "formatting": "sharegpt",
    "columns": {{"messages": "conversations", "kto_tag": "kto_tag"}}
  }}
}}""",
}
MEANING = {
    "kto": "conversational unpaired preferences: `prompt` (messages), `completion` (one message), `label`",
    "kto-text": "plain-text unpaired preferences, the chat template applied: `prompt`, `completion`, `label`",
    "pairs": "preferences: `prompt` (messages), `chosen` and `rejected` (one message each)",
    "sharegpt": "ShareGPT conversations with LLaMA-Factory's `kto_tag`; the last turn is the rated one",
}


def dataset_card(manifest: dict[str, Any], *, licence: str) -> str:
    """The card, beginning with the metadata block that the hub and `datasets` read."""
    return "\n".join([_metadata(manifest, licence), *_body(manifest, licence)]) + "\n"


def _metadata(manifest: dict[str, Any], licence: str) -> str:
    data = DatasetCardData(
        license=licence,
        pretty_name="Thumbloop feedback",
        task_categories=["text-generation"],
        tags=["kto", "trl", "preference", "human-feedback", "thumbloop"],
        size_categories=[_size_category(manifest["rows"])],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}
        ],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _body(manifest: dict[str, Any], licence: str) -> list[str]:
    up, down = manifest["votes"]["up"], manifest["votes"]["down"]
    shape = manifest["shape"]
    balanced = class_weights(up, down, Settings.model_fields["max_weight"].default) if up and down else None
    usage = USAGE["kto" if shape == "kto-text" else shape]
    return [
        "# Thumbloop feedback",
        "",
        f"Votes on a chat model's replies, as {MEANING[shape]}. Provenance columns stand beside them; people "
        "appear as pseudonyms only.",
        "",
        f"- Rows: {manifest['rows']}",
        f"- Thumbs up: {up}, thumbs down: {down} ({_imbalance(up, down)})",
        f"- Snapshot: vote event {manifest['snapshot_event_id']}; "
        f"the last one in here is {manifest['largest_event_id']}",
        f"- Filters: `{json.dumps(manifest['filters'], ensure_ascii=False)}`",
        f"- Duplicates: {manifest['duplicates']}; contradictory votes: {manifest['contradictions']}",
        *(_redacted(manifest["redaction"]) if manifest["redaction"] is not None else ()),
        f"- Licence: {licence}",
        f"- Written by Thumbloop {manifest['software']['version']}",
        "",
        "| model version | up | down |",
        "|---|---|---|",
        *(
            f"| {name or 'not generated here'} | {votes['up']} | {votes['down']} |"
            for name, votes in manifest["versions"].items()
        ),
        "",
        "## Use",
        "",
        *(
            ["An entry for LLaMA-Factory's `dataset_info.json`:", "", "```json"]
            if shape == "sharegpt"
            else ["```python"]
        ),
        usage.format(
            desirable=f"{balanced.desirable:.4f}" if balanced else 1.0,
            undesirable=f"{balanced.undesirable:.4f}" if balanced else 1.0,
        ),
        "```",
        "",
        *(
            [
                f"The weights above keep desirable_weight × up / (undesirable_weight × down) {KEPT}.",
                "",
            ]
            if shape != "pairs" and balanced
            else []
        ),
        "`manifest.json` has the sha256 of the data, all counts, and what was left out.",
    ]


def _redacted(redaction: dict[str, Any]) -> list[str]:
    engine = redaction["engines"]["presidio-analyzer"]
    return [f"- Personal data replaced by Presidio {engine}: {', '.join(redaction['entities'])}"]


def _imbalance(up: int, down: int) -> str:
    if not up or not down:
        return "one kind only"
    return f"{up / down:.2f} up for each down"


def _size_category(rows: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[min(max(len(str(rows)) - 3, 0), len(names) - 1)]
