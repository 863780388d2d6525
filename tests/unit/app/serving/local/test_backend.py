"""The local backend on a tiny real model: text, seeds, stops, cancelling, limits, adapters."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import torch
from peft import PeftModel
from peft.tuners import lora
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.serving.admission import Admission
from app.serving.backend import ServedVersion
from app.serving.local.backend import LocalBackend
from app.serving.local.scheduler import LocalReply, LocalScheduler, Slot
from app.serving.local.slot import build_model
from app.serving.reply import ReplyStream, Request, Sampling
from storage.errors import ArtifactRefused, Busy, InvalidInput, NotReady, ThumbloopError
from storage.settings import Settings
from tests.support.adapters import build_adapter
from tests.support.endless_model import CONTEXT, FATAL
from tests.support.examples import example
from tests.support.tiny_model import CONTEXT as TINY_CONTEXT
from tests.support.tiny_model import build_tiny_model
from trainer.dataset.template import prompt_ids
from trainer.dataset.tokenise import tokenise
from trainer.generation.plain_engine import PlainEngine
from trainer.generation.trial import try_model
from trainer.model.base_model import load_model, resolve

HELLO = [{"role": "user", "content": "Tell me about the river, please. 🌊"}]
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=24)
SAMPLED = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=24, seed=7)
ENDLESS = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=CONTEXT, seed=7)
BASE = ServedVersion("base", "v1", None)


def reply(backend: LocalBackend, version: ServedVersion = BASE, sampling: Sampling = SAMPLED) -> str:
    return backend.stream(version.id, HELLO, sampling).end.content


def greedy_oracle(folder: Path, adapter: Path | None = None) -> list[int]:
    """What transformers and peft themselves generate."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    ids = torch.tensor([prompt_ids(AutoTokenizer.from_pretrained(folder), HELLO)])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
    )
    return out[0, ids.shape[1] :].tolist()


def test_greedy_ids_are_those_of_transformers_and_peft(
    backend: LocalBackend, tuned: ServedVersion, model_folder: Path
) -> None:
    backend.load(tuned)
    base = backend.stream(BASE.id, HELLO, GREEDY).end.token_ids
    adapted = backend.stream(tuned.id, HELLO, GREEDY).end.token_ids
    assert base == greedy_oracle(model_folder)
    assert adapted == greedy_oracle(model_folder, tuned.adapter)
    assert base != adapted


def test_the_end_tells_what_was_generated(backend: LocalBackend, model_folder: Path) -> None:
    stream = backend.stream(BASE.id, HELLO, SAMPLED)
    deltas = list(stream)
    end = stream.end
    assert len(deltas) > 1
    assert "".join(deltas) == end.content
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    text = tokenizer.decode(end.token_ids, skip_special_tokens=True)
    assert text.startswith(end.content)
    assert (end.finish_reason, len(end.token_ids), end.timings["tokens"]) == ("length", 24, 24)
    assert end.prompt_tokens == len(prompt_ids(tokenizer, HELLO))
    assert 0 <= end.timings["queued_s"] <= end.timings["first_token_s"] <= end.timings["total_s"]


def test_an_end_token_ends_the_reply_and_is_recorded(
    make_backend: Callable[..., LocalBackend], tiny_model: Path
) -> None:
    backend = make_backend(tiny_model)
    end = backend.stream(BASE.id, HELLO, ENDLESS).end
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert end.finish_reason == "stop"
    assert end.token_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token not in end.content


def test_a_reply_that_its_engine_ends_unasked_ends_for_the_reader(model_folder: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, model=str(model_folder), precision="fp32")
    base, tokenizer = load_model(resolve(settings))
    prompt = prompt_ids(tokenizer, HELLO)
    trial = try_model(base, prompt)
    admission = Admission(1, 0)
    engine_ends = frozenset([trial.tokens[3]])  # of which the reply knows nothing

    def make_engine(slot: Slot) -> PlainEngine:
        return PlainEngine(slot.model, engine_ends, 1, partial(scheduler.take, slot))

    scheduler = LocalScheduler(1, admission, make_engine)
    slot = Slot(BASE, base, trial)
    slot.engine = make_engine(slot)
    scheduler.open(slot)
    admission.admit("ada", BASE.id)
    request = Request("1", BASE.id, "ada", HELLO, prompt, GREEDY, 24, time.perf_counter())
    stream = ReplyStream(lambda _stream: lambda: None)
    scheduler.begin(LocalReply(request, stream, tokenizer, end_ids=frozenset()))
    end = stream.end
    scheduler.close()
    assert (end.finish_reason, end.token_ids) == (
        "stop",
        trial.tokens[: trial.tokens.index(trial.tokens[3]) + 1],
    )
    assert admission.admitted() == 0


def test_training_reads_the_ids_that_serving_saw(
    make_backend: Callable[..., LocalBackend], tiny_model: Path, model_folder: Path
) -> None:
    chat = [*HELLO, {"role": "assistant", "content": "Good day."}, {"role": "user", "content": "Why good?"}]
    rows = []
    for folder, sampling in ((model_folder, GREEDY), (tiny_model, ENDLESS)):
        end = make_backend(folder).stream(BASE.id, chat, sampling).end
        said = [{"role": "assistant", "content": end.content}]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        voted = example(prompt=chat, completion=said, token_ids=list(end.token_ids))
        rows += tokenise(tokenizer, [voted], max_length=CONTEXT)[0]
        assert rows[-1].completion_ids == end.token_ids
    cut, ended = rows
    assert tokenizer.eos_token_id not in cut.completion_ids, "it must not be trained to stop here"
    assert ended.completion_ids.index(tokenizer.eos_token_id) == len(ended.completion_ids) - 1
    # transformers says the same again only after the same ids.
    ids = torch.tensor([cut.prompt_ids])
    again = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24
    )
    assert again[0, ids.shape[1] :].tolist() == cut.completion_ids


def test_a_seed_repeats_its_text_in_company_and_leaves_the_global_generator_alone(
    backend: LocalBackend, tuned: ServedVersion
) -> None:
    backend.load(tuned)
    versions = [BASE, tuned] * 4
    alone = {version.id: reply(backend, version) for version in (BASE, tuned)}
    assert alone[BASE.id] != alone[tuned.id]
    assert reply(backend, BASE, Sampling(0.9, 0.95, 24, seed=8)) != alone[BASE.id]
    before = torch.get_rng_state()
    together = [backend.stream(version.id, HELLO, SAMPLED) for version in versions]
    for stream in together:
        stream.start()
    assert [stream.end.content for stream in together] == [alone[version.id] for version in versions]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stop_string_ends_the_reply_before_itself(backend: LocalBackend) -> None:
    whole = reply(backend)
    stop = whole[10:14]
    end = backend.stream(BASE.id, HELLO, Sampling(0.9, 0.95, 24, seed=7, stop=("not there", stop))).end
    assert end.finish_reason == "stop"
    assert end.content == whole[: whole.index(stop)]
    assert 0 < len(end.token_ids) < 24


def test_cancel_keeps_what_came_so_far(backend: LocalBackend) -> None:
    stream = backend.stream(BASE.id, HELLO, ENDLESS)
    deltas = iter(stream)
    text = next(deltas) + next(deltas)
    stream.cancel()
    text += "".join(deltas)
    assert stream.end.finish_reason == "cancelled"
    assert stream.end.content == text
    assert len(stream.end.token_ids) < CONTEXT // 2


def test_places_are_counted_and_come_back_however_a_stream_ends(
    make_backend: Callable[..., LocalBackend],
) -> None:
    backend = make_backend(max_concurrent_replies=1, max_waiting_replies=2)
    streams = [backend.stream(BASE.id, HELLO, ENDLESS) for _ in range(3)]
    running, waiting, *_ = streams
    with pytest.raises(Busy, match="3 replies") as busy:
        backend.stream(BASE.id, HELLO, ENDLESS)
    assert 1 <= busy.value.retry_after <= 60
    streams.append(backend.stream(BASE.id, HELLO, ENDLESS, person="who has none yet"))
    next(iter(running))
    waiting.start()
    waiting.cancel()
    assert waiting.end.finish_reason == "cancelled"
    assert waiting.end.token_ids == []
    assert not backend.unload(BASE.id)
    for stream in streams:
        stream.cancel()
        assert stream.end.finish_reason == "cancelled"
    assert reply(backend)
    assert backend.unload(BASE.id)
    assert backend.loaded() == []
    with pytest.raises(NotReady) as missing:
        backend.stream(BASE.id, HELLO, SAMPLED)
    assert missing.value.code == "not_loaded"


def test_a_failing_model_reaches_the_reader_and_frees_the_place(
    make_backend: Callable[..., LocalBackend],
) -> None:
    backend = make_backend(max_concurrent_replies=1, max_waiting_replies=0)
    for _ in range(2):
        stream = backend.stream(BASE.id, [{"role": "user", "content": FATAL}], SAMPLED)
        with pytest.raises(ThumbloopError, match="index out of range") as failure:
            list(stream)
        assert failure.value.code == "generation_failed"
        with pytest.raises(ThumbloopError, match="index out of range"):
            _ = stream.end
    assert reply(backend)


def test_a_prompt_without_room_is_refused_and_a_long_one_shortens_the_reply(
    make_backend: Callable[..., LocalBackend], tmp_path: Path
) -> None:
    folder = build_tiny_model(tmp_path / "model", stops=False)
    backend = make_backend(folder, max_concurrent_replies=1, max_waiting_replies=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    fixed = len(prompt_ids(tokenizer, [{"role": "user", "content": ""}]))

    def question(tokens: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "\x01" * (tokens - fixed)}]  # one token each

    with pytest.raises(InvalidInput, match=rf"{TINY_CONTEXT} tokens long.*at most {TINY_CONTEXT}") as refused:
        backend.stream(BASE.id, question(TINY_CONTEXT), SAMPLED)
    assert refused.value.code == "prompt_too_long"
    end = backend.stream(BASE.id, question(TINY_CONTEXT - 5), SAMPLED).end
    assert (end.prompt_tokens, len(end.token_ids), end.finish_reason) == (TINY_CONTEXT - 5, 5, "length")


def test_closing_ends_every_reader(backend: LocalBackend) -> None:
    ends = []
    streams = [backend.stream(BASE.id, HELLO, ENDLESS) for _ in range(10)]
    readers = [Thread(target=lambda s=stream: ends.append(s.end.finish_reason)) for stream in streams[:9]]  # type: ignore[misc]
    for reader in readers:
        reader.start()
    for stream in streams[:9]:
        stream.start()
    backend.close()
    for reader in readers:
        reader.join()
    assert ends == ["cancelled"] * 9
    with pytest.raises(NotReady, match="stopping"):
        list(streams[9])
    with pytest.raises(NotReady):
        backend.stream(BASE.id, HELLO, SAMPLED)


def test_a_slot_shares_every_base_tensor_and_leaves_the_base_as_it_was(
    tuned: ServedVersion, model_folder: Path, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, model=str(model_folder), precision="fp32")
    base, _ = load_model(resolve(settings))
    names = list(base.state_dict())
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    clone = build_model(base, tuned)
    own = [name for name in clone.state_dict() if ".lora_" in name]
    shared = {tensor.data_ptr() for name, tensor in clone.state_dict().items() if name not in own}
    assert own
    assert shared == {tensor.data_ptr() for tensor in base.state_dict().values()}
    assert list(base.state_dict()) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_bf16_keeps_the_effect_of_a_young_adapter(model_folder: Path, tmp_path: Path) -> None:
    """PEFT adds it to a rounded product, and loses most of it."""
    base, _ = load_model(resolve(Settings(data_dir=tmp_path, model=str(model_folder), precision="bf16")))
    young = ServedVersion("young", "v2", build_adapter(model_folder, tmp_path / "v2", size=1e-3))
    layers = [layer for layer in build_model(base, young).modules() if isinstance(layer, lora.Linear)]
    assert layers
    for layer in layers:
        x = torch.randn(64, layer.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
        with torch.inference_mode():
            down, up = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
            effect = layer.scaling["default"] * x.float() @ down.T @ up.T
            served = layer(x).float() - layer.base_layer(x).float()
        assert 0.9 < (served * effect).sum() / effect.square().sum() < 1.1


def set_key(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = folder / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))

    return damage


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tensors file": (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "cannot be read"),
    "cut short": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(
            (f / "adapter_model.safetensors").read_bytes()[:-100]
        ),
        "cannot be read",
    ),
    "a pickle in disguise": (lambda f: torch.save({}, f / "adapter_model.safetensors"), "cannot be read"),
    "broken JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "not LoRA": (set_key("peft_type", "IA3"), "does not describe a LoRA"),
    "trains biases": (set_key("bias", "all"), "more than LoRA's own tensors"),
    "trains modules": (set_key("modules_to_save", ["lm_head"]), "more than LoRA's own tensors"),
    "other rank": (set_key("r", 8), "does not fit the base model"),
    "bad rank": (set_key("r", -1), "does not fit the base model"),
    "other targets": (set_key("target_modules", ["nowhere"]), "does not fit the base model"),
    "more targets": (set_key("target_modules", ["q_proj", "v_proj", "down_proj", "o_proj"]), "it lacks"),
    "fewer targets": (set_key("target_modules", ["q_proj"]), "has no place for"),
    "nothing in it": (change_tensors(lambda t: t.clear()), "holds no tensors"),
    "NaN": (change_tensors(lambda t: t[FIRST].fill_(float("nan"))), rf"{FIRST} holds values"),
    "whole numbers": (change_tensors(lambda t: t.update({FIRST: t[FIRST].int()})), rf"{FIRST} holds values"),
    "a base tensor": (
        change_tensors(lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2)})),
        "not a LoRA tensor",
    ),
    "too large to compute with": (
        change_tensors(lambda t: [v.fill_(1e38) for v in t.values()]),
        "its first try gave logits that are not finite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_by_name_and_harms_nothing(
    backend: LocalBackend, model_folder: Path, tmp_path: Path, damage: str
) -> None:
    before = reply(backend)
    folder = build_adapter(model_folder, tmp_path / "adapter")
    do_damage, why = DAMAGES[damage]
    do_damage(folder)
    with pytest.raises(ArtifactRefused, match=rf"Model version v2 .* is refused: .*{why}"):
        backend.load(ServedVersion("tuned", "v2", folder))
    assert backend.loaded() == [BASE.id]
    assert reply(backend) == before
