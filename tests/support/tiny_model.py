"""A tiny real language model, built offline in a second: the one that tests serve and train.

A two-layer Llama with random weights and a byte-level tokenizer, so any Unicode text survives a
round trip. It knows nothing, but it is loaded, streamed, trained and merged exactly as a large one.
"""

import os
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 1024
END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris.",
    "system user assistant: please write a short story about a river that learned to speak.",
    "One, two, three, four, five. A good answer is short and clear; a bad answer is long and wrong.",
]


def build_tiny_model(folder: Path, seed: int = 0, *, stops: bool = True, plain: bool = False) -> Path:
    """Write the model and its tokenizer to `folder`, which is made if absent, and return it.

    Replies are a few dozen tokens long; with `stops=False` they always run to the token limit. If `plain`,
    they hold letters and simple punctuation alone.
    """
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _favour_readable_text(model, tokenizer, end_bias=0.1 if stops else -9.0, plain=plain)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def _favour_readable_text(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, end_bias: float, plain: bool
) -> None:
    """Give every token the same first coordinate, so that the output layer's first column is a bias.

    Random weights alone would mostly emit bytes that are no text and would hardly ever stop. Markdown is
    for no test of a page: one reply in a hundred would be a list or a heading by chance.
    """
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.15)
        model.model.embed_tokens.weight[:, 0] = 1.0
        for token in range(len(tokenizer)):
            piece = tokenizer.decode([token])
            readable = piece.isascii() and piece.isprintable() and token not in tokenizer.all_special_ids
            model.lm_head.weight[token, 0] = 0.0 if readable else -3.0
            if plain and readable and not all(each.isalpha() or each in " ,.?!" for each in piece):
                model.lm_head.weight[token, 0] = -9.0
        model.lm_head.weight[tokenizer.eos_token_id] *= 0.1  # so that no context makes it the likeliest
        model.lm_head.weight[tokenizer.eos_token_id, 0] = end_bias
        # The second coordinate says that a line has just ended, as a prompt does: no reply is empty.
        model.model.embed_tokens.weight[:, 1] = 0.0
        model.model.embed_tokens.weight[tokenizer.encode("\n"), 1] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[1] = 0.0
            layer.mlp.down_proj.weight[1] = 0.0
        model.lm_head.weight[:, 1] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id, 1] = -4.0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.support.tiny_model FOLDER")
    sys.stdout.write(f"{build_tiny_model(Path(sys.argv[1]))}{os.linesep}")
