"""Chat templates of the kinds that models have, for the tiny model's tokenizer."""

import copy
from typing import Any

from tokenizers.processors import TemplateProcessing

_TURNS = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"""
CHATML = _TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
# As Llama 3's: a BOS token, which the tokenizer adds to other texts by itself; nothing after the end token.
LLAMA_3 = """{{- bos_token }}{% for m in messages %}
{{- '<|im_start|>' + m.role + '\\n\\n' + m.content | trim + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"""
_REPLY = """{%- for m in messages %}{% set content = m.content %}
{%- if m.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' }}{% endfor %}"""
# As DeepSeek R1's: the generation prompt opens the reasoning, which no message ever shows.
R1 = _REPLY + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
SEED = R1.replace("think>", "seed:think>")  # the same with other tags
# As Qwen 3's: the reasoning of the last reply is shown; an argument puts an empty one in its place.
QWEN_3 = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}
{{- '<think>\\n' + (m.reasoning_content or '') | trim + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
_TOOLS = """{%- if tools %}{{- '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{{- '<|im_end|>\n' }}{% endif %}"""
_CALLS = """{%- set calls %}{%- for call in m.tool_calls or [] %}
{{- '<tool_call>' + call.function.name + ' ' + (call.function.arguments if call.function.arguments is string
    else call.function.arguments | tojson) + '</tool_call>' }}{% endfor %}{% endset %}"""


def with_tools(template: str) -> str:
    """As Qwen's: tools stand before everything else, calls and results in turns of their own."""
    begins = "{{- bos_token }}" if template.startswith("{{- bos_token }}") else ""
    rest = template.removeprefix(begins).replace("{% for m in messages %}", "{%- for m in messages %}")
    assert "{%- for m in messages %}" in rest
    rest = rest.replace("{%- for m in messages %}", "{%- for m in messages %}" + _CALLS)
    return (
        begins
        + _TOOLS
        + rest.replace("m.content", "(m.content + calls)").replace(
            "(m.content + calls) %}", "m.content + calls %}"
        )
    )


# Ends no turn by a token that ends generation.
ENDLESS = """{%- for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


TOOLS = with_tools(CHATML)


def with_template(tokenizer: Any, template: str, **arguments: Any) -> Any:
    """A copy of the tokenizer with this template and these arguments for it."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    other.template_args = arguments
    if template is LLAMA_3:
        other.bos_token = other.pad_token
        processor = TemplateProcessing(
            single=f"{other.bos_token} $A", special_tokens=[(other.bos_token, other.bos_token_id)]
        )
        other.backend_tokenizer.post_processor = processor
    return other
