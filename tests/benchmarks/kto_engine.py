"""The KTO engine against stock TRL: same rows, same order, one after the other, each in its own process.

Stock TRL at its defaults, stock TRL at its best settings (no checkpointing, the base in bf16 where the
processor has it), and shared-prefix without and with reference log-probabilities of an earlier run.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.report import data_parser, print_report
from trainer.launch.environment import gpus

# "trl best" is as anybody runs it; "trl in our process" keeps freed memory (trainer/process.py) as ours does.
VARIANTS = ("trl defaults", "trl best", "trl in our process", "ours cold", "ours warm")
# Random weights serve for speed where no such model is at hand; the tiny one tries the way out.
SHAPES = {
    "qwen2-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "qwen2-tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50_000,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], help="a GPU if there is one")
    parser.add_argument("--model", help="a folder or a hub id; the default model")
    parser.add_argument(
        "--random-weights", choices=SHAPES, help="a model of this shape, with the other's tokenizer"
    )
    parser.add_argument("--every-reply", action="store_true", help="rate each reply of chats of 6+ messages")
    arguments = parser.parse_args()
    # As the product sets it for its own processes (trainer/runs/executors.py).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif arguments.device == "cuda" and not gpus():
        raise SystemExit(
            "--device cuda: PyTorch finds no GPU here; leave it out, or install PyTorch for CUDA"
        )
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder:
        if arguments.random_weights:
            arguments.model = str(_random_model(arguments, Path(folder) / "model"))
        found = {
            name: _in_a_process(name, arguments, Path(folder)) for name in VARIANTS if name in arguments.only
        }
    ratios = {}
    if best := found.get("trl best"):
        for name in ("trl in our process", "ours cold", "ours warm"):
            if name in found:
                ratios[name] = {
                    "times faster": best["seconds_per_row"] / found[name]["seconds_per_row"],
                    "memory": found[name]["peak_memory_mb"] / best["peak_memory_mb"],
                }
    print_report("kto_engine", {"variants": found, "ratios to trl best": ratios})


def _in_a_process(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    result = folder / f"{name}.json"
    process = multiprocessing.get_context("spawn").Process(
        target=_train, args=(name, arguments, folder, result)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} ended with exit code {process.exitcode}")
    return dict(json.loads(result.read_text()))


def _train(name: str, arguments: argparse.Namespace, folder: Path, result: Path) -> None:
    from trainer.launch.environment import prepare_process

    if name not in ("trl defaults", "trl best"):
        prepare_process()  # as each training of the product begins
    from storage.examples.weights import class_weights
    from storage.settings import Settings
    from storage.settings.serving import DEFAULT_MODEL
    from trainer.dataset.tokenise import tokenise
    from trainer.engine import kto
    from trainer.engine.estimates import peak_memory
    from trainer.engine.prefix.reference_cache import ReferenceCache
    from trainer.engine.trl_trainer import ExactTrainer
    from trainer.model.base_model import load_model, resolve

    settings = Settings(
        data_dir=folder / "data",
        model=arguments.model or DEFAULT_MODEL,
        precision="fp32" if name == "trl defaults" else arguments.precision,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        engine="trl" if name.startswith("trl") else "shared-prefix",
    )
    model, tokenizer = load_model(resolve(settings))
    examples = read_examples(arguments.data, every_reply=arguments.every_reply)
    rows = tokenise(tokenizer, examples, max_length=settings.max_length)[0][: arguments.rows]
    ups = sum(row.label for row in rows)
    weights = class_weights(ups, len(rows) - ups, settings.max_weight)
    steps: list[dict[str, Any]] = []
    if name.startswith("trl"):
        # Checkpointing on or off as the variant says, whatever memory there is.
        args = kto.training_arguments(model, weights, settings, folder / name, name == "trl defaults")
        trainer: Any = ExactTrainer(
            *(model, tokenizer, rows),
            max_length=settings.max_length,
            args=args,
            peft_config=kto.lora_config(settings),
        )
        train_seconds = trainer.train().metrics["train_runtime"]
        steps = [line for line in trainer.state.log_history if "loss" in line]
        memory = peak_memory()
    else:
        references = ReferenceCache(folder / "references.db", model=str(model.dtype), max_mb=64)
        _, trained = kto.train(
            *(model, tokenizer, rows),
            weights=weights,
            settings=settings,
            output_dir=folder / name,
            references=references,
            progress=lambda state: steps.append(state) if "loss" in state else None,
        )
        train_seconds, memory = trained.seconds, trained.peak_memory
    result.write_text(
        json.dumps(
            {
                "rows": len(rows),
                "tokens": sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows),
                "seconds_per_row": train_seconds / len(rows),
                "peak_memory_mb": memory / 2**20,
                "precision": str(model.dtype),
                "device": str(model.device),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "loss": [step["loss"] for step in steps],
                "gradient_norm": [step.get("grad_norm", step.get("gradient_norm")) for step in steps],
                "z0": [step["kl"] for step in steps],
            }
        )
    )


def _random_model(arguments: argparse.Namespace, folder: Path) -> Path:
    """A model with random weights, and the tokenizer of the model that was chosen."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from storage.settings import Settings
    from storage.settings.serving import DEFAULT_MODEL
    from trainer.model.base_model import load_tokenizer, resolve

    settings = Settings(data_dir=folder.parent / "data", model=arguments.model or DEFAULT_MODEL)
    load_tokenizer(resolve(settings)).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[arguments.random_weights])
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def read_examples(file: Path, *, every_reply: bool) -> list[Any]:
    """Rated replies from KTO rows; with `every_reply` each reply of longer chats, rated by a rule."""
    from tests.support.examples import example

    examples = []
    for number, line in enumerate(file.read_text().splitlines()):
        row = json.loads(line)
        messages = [*row["prompt"], *row["completion"]]
        ends = [len(messages) - 1]
        if every_reply:
            if len(messages) < 6:
                continue
            ends = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        for end in ends:
            examples.append(
                example(
                    prompt=messages[:end],
                    completion=[messages[end]],
                    label=row["label"] if end == ends[-1] else (number + end) % 3 != 0,
                    chat_id=str(number),
                    message_id=f"{number}-{end}",
                )
            )
    return examples


if __name__ == "__main__":
    main()
