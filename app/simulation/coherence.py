"""How probable a model finds replies: text that has suffered is improbable, even to a small model."""

from collections.abc import Callable, Sequence

from app.simulation.tastes import SimulatedReply
from storage.settings import Settings
from trainer.dataset.template import prompt_ids
from trainer.model.base_model import load_model, resolve
from trainer.taste.features import Reply, read_features


def log_probability(
    settings: Settings, replies: Sequence[SimulatedReply], progress: Callable[[int], None]
) -> float:
    """The mean log-probability of a token of the replies to their prompts, in nats, by the settings' model.

    Every token counts the same. The model reads the prompt with its chat template, if it has one. `progress`
    receives the number of replies read; empty ones have no tokens. Raises ModelUnavailable.
    """
    model, tokenizer = load_model(resolve(settings))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    tokenised = []
    for reply in replies:
        if tokenizer.chat_template:
            prompt = prompt_ids(tokenizer, [{"role": "user", "content": reply.prompt}])
        else:
            prompt = ids(f"{reply.prompt}\n\n")
        tokenised.append(Reply(prompt, ids(reply.text), reply.prompt, reply.text, reply.finished))
    spoken = [one for one in tokenised if one.completion_ids]
    found = read_features(model, spoken, progress)
    lengths = [len(one.completion_ids) for one in spoken]
    total = sum(one.log_probability * length for one, length in zip(found, lengths, strict=True))
    return total / max(sum(lengths), 1)
