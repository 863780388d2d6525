"""LangChain's ChatOpenAI, over chat completions and over the Responses API."""

import json
import os
import sys

from langchain_openai import ChatOpenAI

SAID = [("system", "Be kind."), ("human", "Hello")]
said = []
for responses in (False, True):
    model = ChatOpenAI(
        base_url=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        model="deployed",
        temperature=0,
        max_completion_tokens=12,
        use_responses_api=responses,
    )
    whole = model.invoke(SAID)
    said.append({"whole": whole.text, "id": whole.response_metadata["id"]})
    said.append({"whole": "".join(chunk.text for chunk in model.stream(SAID))})
json.dump(said, sys.stdout)
