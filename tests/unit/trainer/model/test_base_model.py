"""Finding and loading the base model, and saying what to do where there is none."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from storage.errors import ModelUnavailable
from storage.settings import Settings
from storage.settings.serving import DEFAULT_MODEL
from tests.support.default_model import ConvertedDefault
from trainer.model.base_model import BaseModelSource, load_model, load_tokenizer, number_format, resolve


def source_of(folder: Path | str, data_dir: Path, **settings: object) -> BaseModelSource:
    return resolve(Settings(data_dir=data_dir, model=str(folder), **settings))  # type: ignore[arg-type]


def test_a_folder_is_loaded_in_the_precision_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        source = source_of(tiny_model, tmp_path, precision=precision)
        model, tokenizer = load_model(source)
        assert (source.name, source.max_context) == (str(tiny_model), 1024)
        assert model.dtype == source.dtype == dtype
        assert not model.training
        assert tokenizer.eos_token == "<|im_end|>"


def test_auto_precision_is_one_of_the_two() -> None:
    assert number_format("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("somebody/no-such-model", "the hub cannot provide it"),
        ("/no/such/folder", "there is no such folder"),
        ("not an id", "there is no such folder"),
    ],
)
def test_a_model_that_cannot_be_had(model: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=reason) as raised:
        source_of(model, tmp_path)
    assert model in raised.value.message
    assert "THUMBLOOP_MODEL" in raised.value.message
    assert "\n" not in raised.value.message


def test_a_folder_without_weights_or_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        source_of(tmp_path, tmp_path)
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnavailable, match="no chat template"):
        load_tokenizer(source_of(broken, tmp_path))
    (broken / "model.safetensors").write_bytes(b"not safetensors at all")
    shutil.copy(tiny_model / "chat_template.jinja", broken)
    with pytest.raises(ModelUnavailable, match="weights cannot be loaded"):
        load_model(source_of(broken, tmp_path))
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"no \*\.safetensors"):
        source_of(broken, tmp_path)


def test_a_tokenizer_without_padding_pads_with_its_end_token(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "unpadded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(source_of(folder, tmp_path)).pad_token == "<|im_end|>"


@pytest.mark.slow
def test_the_default_model_is_converted_once_however_many_ask(converted_default: ConvertedDefault) -> None:
    assert len(converted_default.outputs) == 2
    assert "".join(converted_default.outputs).count("Converting") == 1
    messages: list[str] = []
    resolve(Settings(data_dir=converted_default.data_dir), progress=messages.append)
    assert messages == []
    folder = converted_default.data_dir / "models" / DEFAULT_MODEL
    assert not folder.with_name(f"{DEFAULT_MODEL}.tmp").exists()

    source = source_of(DEFAULT_MODEL, converted_default.data_dir)
    model, tokenizer = load_model(source)
    assert source.max_context == 8192
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    reply = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id
