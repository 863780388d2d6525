"""vLLM's extensions of OpenAI's protocol: loading adapters at run time, and extra request fields.

Each version gets a unique name and is never loaded in place: vLLM's prefix cache is keyed by name, and
would reuse what another adapter computed.
"""

import hashlib
from typing import Any

import httpx2

from app.serving.backend import ServedVersion
from app.serving.openai.client import ModelServer
from storage.errors import ArtifactRefused, Busy, Conflict
from storage.registry.artifacts import WEIGHTS

OWNER = "vllm"  # `owned_by` in its list of models
# By default vLLM takes these sampling fields from the model's generation_config.json. It returns token ids
# only on request.
FIELDS: dict[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}


def adapter_name(version: ServedVersion) -> str:
    """A name that no other version has, in this installation or another on the same server."""
    digest = hashlib.sha256(version.id.encode())  # a UUID
    digest.update((version.folder / WEIGHTS).read_bytes())
    return f"thumbloop-{version.name}-{digest.hexdigest()[:12]}"


async def load_adapter(server: ModelServer, version: ServedVersion, name: str) -> None:
    """Have the server load the adapter, unless it has it already.

    Raises ArtifactRefused if it refuses this adapter, Conflict if it cannot load adapters, Busy.
    """
    folder = version.folder.absolute()
    answer = await server.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
    if answer.is_success or "already been loaded" in answer.text:
        return
    if _has_no_route(answer) and str(folder) not in answer.text:
        raise Conflict(
            f"{version.name} cannot be deployed: the model server loads no adapters while it runs. Start "
            f"vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or have the server serve "
            f"{folder} as the model {name} (vLLM: --lora-modules {name}={folder}). Then deploy again.",
            code="adapters_not_loadable",
        )
    refusal = server.refusal(answer)
    if answer.status_code in (401, 403) or (isinstance(refusal, Busy) and answer.status_code != 500):
        raise refusal
    raise ArtifactRefused(
        f"The model server refuses {version.name} ({folder}): {server.reason(answer)}. It has to see the "
        f"folder under the same path, have been started with --enable-lora, and allow the adapter's rank "
        f"(--max-lora-rank)."
    )


async def unload_adapter(server: ModelServer, name: str) -> None:
    """Unload the adapter; does nothing if it is not loaded."""
    answer = await server.post("/unload_lora_adapter", {"lora_name": name})
    if not answer.is_success and answer.status_code != 404:
        raise server.refusal(answer)


async def loads_adapters(server: ModelServer, seconds: float) -> bool:
    """Whether the server has the routes to load adapters; loads none."""
    nothing = {"lora_name": "", "lora_path": ""}
    return not _has_no_route(await server.post("/load_lora_adapter", nothing, seconds=seconds))


def _has_no_route(answer: httpx2.Response) -> bool:
    return answer.status_code in (404, 405, 501)
