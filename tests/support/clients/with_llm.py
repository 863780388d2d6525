"""`llm`, with the model in its extra-openai-models.yaml and the token among its keys."""

import json
import os
import sys
import tempfile
from pathlib import Path

import llm

folder = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(folder)
(folder / "extra-openai-models.yaml").write_text(
    "- model_id: thumbloop\n  model_name: deployed\n  api_key_name: thumbloop\n"
    f"  api_base: {os.environ['BASE_URL']}\n"
)
(folder / "keys.json").write_text(json.dumps({"thumbloop": os.environ["API_KEY"]}))
model = llm.get_model("thumbloop")
asked = {"system": "Be kind.", "temperature": 0, "max_tokens": 12}
whole = model.prompt("Hello", stream=False, **asked)
text = whole.text()
said = [
    {"whole": text, "id": whole.response_json["id"]},
    {"whole": "".join(model.prompt("Hello", stream=True, **asked))},
]
json.dump(said, sys.stdout)
