"""How probable a model finds replies."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.simulation.coherence import log_probability
from app.simulation.tastes import SimulatedReply
from storage.settings import Settings


def reply(text: str) -> SimulatedReply:
    return SimulatedReply("Why is it so?", "en", None, text, finished=True)


def test_every_token_counts_the_same(tiny_model: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, model=str(tiny_model), precision="fp32")
    replies = [reply("It is so."), reply(""), reply("Nobody knows it, and nobody asks.")]
    done: list[int] = []
    found = log_probability(settings, replies, done.append)
    assert done == [1, 2], "the empty one has no token"

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    total, count = 0.0, 0
    for one in replies:
        asked = [{"role": "user", "content": one.prompt}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        answer = tokenizer(one.text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        total += sum(scores[len(prompt) - 1 + at, token].item() for at, token in enumerate(answer))
        count += len(answer)
    assert found == pytest.approx(total / count, abs=1e-4)
