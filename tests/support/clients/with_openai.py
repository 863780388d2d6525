"""The newest `openai`: chat completions and the Responses API."""

import json
import os
import sys

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])
messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
asked = {"model": "deployed", "messages": messages, "temperature": 0, "max_completion_tokens": 12}
whole = client.chat.completions.create(**asked)
chunks = client.chat.completions.create(**asked, stream=True)
said = [
    {"whole": whole.choices[0].message.content, "id": whole.id},
    {"whole": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)},
]
asked = {"model": "deployed", "instructions": "Be kind.", "input": "Hello", "temperature": 0}
response = client.responses.create(**asked, max_output_tokens=12)
events = client.responses.create(**asked, max_output_tokens=12, stream=True)
deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
said += [{"whole": response.output_text, "id": response.id}, {"whole": "".join(deltas)}]
json.dump(said, sys.stdout)
