"""How probable a model finds replies: text that has suffered is improbable, even to a small model."""

from collections.abc import Callable, Sequence

import torch

from app.simulation.tastes import SimulatedReply
from storage.settings import Settings
from trainer.model.base_model import load_model, resolve


@torch.no_grad()
def log_probability(
    settings: Settings, replies: Sequence[SimulatedReply], progress: Callable[[int], None]
) -> float:
    """The mean log-probability of a token of the replies to their prompts, in nats, by the settings' model.

    Every token counts the same. The model reads the prompt with its chat template, if it has one. Raises
    ModelUnavailable.
    """
    model, tokenizer = load_model(resolve(settings))
    model.eval()
    total, count = 0.0, 0
    for done, reply in enumerate(replies):
        progress(done)
        messages = [{"role": "user", "content": reply.prompt}]
        if tokenizer.chat_template:
            rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        else:
            rendered = f"{reply.prompt}\n\n"
        prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        answer = tokenizer(reply.text, add_special_tokens=False)["input_ids"]
        if not answer:
            continue
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        scores = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        total += float(scores.gather(1, ids[0, len(prompt) :, None]).sum())
        count += len(answer)
    return total / max(count, 1)
