"""LiteLLM, as `openai/deployed` at an address of one's own."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it fetches a list of prices

import litellm

ASKED = {
    "model": "openai/deployed",
    "api_base": os.environ["BASE_URL"],
    "api_key": os.environ["API_KEY"],
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 12,
}
whole = litellm.completion(**ASKED)
chunks = litellm.completion(**ASKED, stream=True)
said = [
    {"whole": whole.choices[0].message.content, "id": whole.id},
    {"whole": "".join(chunk.choices[0].delta.content or "" for chunk in chunks)},
]
json.dump(said, sys.stdout)
