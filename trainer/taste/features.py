"""What the learned taste sees of a reply: figures of its text, and the base model's states over its tokens.

The figures of the text use no list of words of a language. The states are the base model's, whatever adapters
the model carries, so that replies of all versions are read the same way.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence

from trainer.dataset.repetition import repeated
from trainer.engine.prefix.output_layer import completion_logps
from trainer.engine.prefix.scorer import output_layer

# A reply is liked for its text and for the question before it. Older turns would cost time and blur the mean.
PROMPT_TOKENS = 256
BATCH_TOKENS = 2048  # of replies that pass through the model at once

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"[.!?…](?=\s|$)|[。！？]")
LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
MARKUP = re.compile(r"^#{1,6} |\*\*|__", re.MULTILINE)
APOSTROPHE = re.compile(r"\w['’]\w")


ReplyKey = tuple[tuple[int, ...], tuple[int, ...]]  # the token ids of prompt and reply


@dataclass(frozen=True)
class Reply:
    """A reply to a prompt, as text and as token ids; neither list of ids is empty.

    `prompt` is the user's last message. `finished` means that the model ended the reply, not a limit.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    prompt: str
    text: str
    finished: bool

    @property
    def key(self) -> ReplyKey:
        return tuple(self.prompt_ids), tuple(self.completion_ids)


@dataclass(frozen=True)
class Features:
    """Figures of the text by name, and the mean last hidden state over the tokens of prompt and reply.

    `log_probability` is the mean over the reply's tokens, in nats. The taste does not read it.
    """

    plain: dict[str, float]
    prompt_state: NDArray[np.float32]
    reply_state: NDArray[np.float32]
    log_probability: float = 0.0

    @property
    def similarity(self) -> float:
        """The cosine of the two states. Low, for example, where a reply is in another language."""
        lengths = np.linalg.norm(self.prompt_state) * np.linalg.norm(self.reply_state)
        return float(self.prompt_state @ self.reply_state / lengths) if lengths else 0.0


KnownFeatures = dict[ReplyKey, Features]


@torch.no_grad()
def read_features(
    model: Any,
    replies: Sequence[Reply],
    progress: Callable[[int], None] = lambda _done: None,
    *,
    log_probabilities: bool = True,
) -> list[Features]:
    """The features of each reply. `model` may carry adapters; they are switched off meanwhile.

    Without `log_probabilities`, which take a third of the time, they are 0. `progress` receives the number
    read so far; what it raises ends the reading.
    """
    adapted = isinstance(model, PeftModel)
    base: Any = model.get_base_model() if adapted else model
    precision = base.get_output_embeddings().weight.dtype
    reduced = precision != torch.float32
    base.eval()
    output = output_layer(base)
    found: dict[int, Features] = {}
    with (
        model.disable_adapter() if adapted else nullcontext(),
        torch.autocast(base.device.type, precision if reduced else None, enabled=reduced),
    ):
        for batch in _batches(replies):
            # Attention is causal, so the padding on the right changes nothing before it.
            rows = [torch.tensor([*_prompt(replies[row]), *replies[row].completion_ids]) for row in batch]
            ids = pad_sequence(rows, batch_first=True).to(base.device)
            states = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
            for row, tokens, state in zip(batch, rows, states, strict=True):
                asked, end = len(_prompt(replies[row])), len(tokens)
                prompt, completion = state[:asked].float().mean(0), state[asked:end].float().mean(0)
                logp = 0.0
                if log_probabilities:
                    targets = tokens[asked:].to(base.device)
                    logp = float(completion_logps(state[asked - 1 : end - 1].float(), targets, output).mean())
                found[row] = Features(
                    text_figures(replies[row]), prompt.cpu().numpy(), completion.cpu().numpy(), logp
                )
                progress(len(found))
    return [found[row] for row in range(len(replies))]


def _prompt(reply: Reply) -> Sequence[int]:
    return reply.prompt_ids[-PROMPT_TOKENS:]


def _batches(replies: Sequence[Reply]) -> Iterator[list[int]]:
    """The places of replies of similar length, so that little is padded."""
    lengths = [len(_prompt(reply)) + len(reply.completion_ids) for reply in replies]
    batch: list[int] = []
    for row in sorted(range(len(replies)), key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def text_figures(reply: Reply) -> dict[str, float]:
    """The figures of a reply's text. Counts are log(1 + count), shares are from 0 to 1."""
    text, finished = reply.text, float(reply.finished)
    words = [word.lower() for word in WORD.findall(text)]
    said = set(words)
    asked = {word.lower() for word in WORD.findall(reply.prompt)}
    sentences = len(SENTENCE_END.findall(text))
    letters = [letter for letter in text if letter.isalpha()]
    counts = {
        "words": len(words),
        "words a sentence": len(words) / max(sentences, 1),
        "sentences": sentences,
        "lines": text.count("\n"),
        "paragraphs": text.count("\n\n"),
        "list items": len(LIST_ITEM.findall(text)),
        "exclamation marks": text.count("!") + text.count("！"),
        "question marks": text.count("?") + text.count("？"),
        "apostrophes": len(APOSTROPHE.findall(text)),
        "commas": text.count(","),
        "colons": text.count(":"),
        "words of the prompt": len(asked),
    }
    figures = {name: math.log1p(count) for name, count in counts.items()}
    figures |= {
        "any list": float(counts["list items"] > 0),
        "any exclamation mark": float(counts["exclamation marks"] > 0),
        "any question mark": float(counts["question marks"] > 0),
        "any apostrophe": float(counts["apostrophes"] > 0),
        "any digit": float(any(letter.isdigit() for letter in text)),
        "any code": float("`" in text),
        "any markup": float(bool(MARKUP.search(text))),
        "empty": float(not words),
        "finished": finished,
        "words if finished": finished * figures["words"],
        "upper case": _share(letter.isupper() for letter in letters),
        "letters beyond ASCII": _share(not letter.isascii() for letter in letters),
        "letters a word": sum(map(len, words)) / len(words) if words else 0.0,
        "distinct words": len(said) / len(words) if words else 0.0,
        "repeated 4-grams": repeated(words),
        "words repeated from the prompt": _share(word in said for word in asked),
    }
    return figures


def _share(found: Iterable[bool]) -> float:
    """The share of what is true; 0 of nothing."""
    values = list(found)
    return sum(values) / len(values) if values else 0.0
