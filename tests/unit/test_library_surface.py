"""Names of other libraries that their documentation does not promise, and what would break without each.

An upgrade that renames one fails here with a sentence. A row whose use is gone from our code fails, too.
"""

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio.routes
import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file

from app.web.page_guard import CANCEL, RESETS
from trainer.model.host_limits import is_damaged

ROOT = Path(__file__).parents[2]
BATCHING = "transformers.generation.continuous_batching"

# By our file and the library's module: its names, with the parameters that we pass or override.
USES = {
    ("app/web/connections.py", "uvicorn.protocols.http.httptools_impl"): {
        "HttpToolsProtocol.on_headers_complete": "A request under way would be closed as one without a head.",
        "HttpToolsProtocol.on_response_complete": "A second head could be waited for without end.",
    },
    ("trainer/generation/batching_engine.py", f"{BATCHING}.continuous_api"): {
        "ContinuousBatchingManager.output_router": "Tokens would reach no reply.",
        "ContinuousBatchingManager.logit_processor": "Seeds and temperatures would be lost.",
        "ContinuousBatchingManager.input_queue": "A full queue would block the scheduler.",
        "ContinuousBatchingManager.background_thread_status": "A dead worker would not be detected.",
        "ContinuousBatchingManager.add_request(request_id, max_new_tokens, streaming, eos_token_id)": (
            "No request could enter the batch."
        ),
        "ContinuousBatchingManager.cancel_request(request_id)": "Stopped replies would run on.",
        "ContinuousBatchingManager.stop(hard_stop)": "A slot could not be unloaded.",
        "OutputRouter.deliver(output)": "Tokens would reach no reply.",
        "OutputRouter.deliver_batch(outputs)": "Tokens would reach no reply.",
    },
    ("trainer/generation/batching_engine.py", f"{BATCHING}.requests"): {
        "GenerationOutput.generated_tokens": "Replies would have no tokens.",
        "GenerationOutput.is_finished": "Replies would never end.",
        "FutureRequestState.state": "A draw would lose its sampler.",
        "RequestState.logit_processor_kwargs": "A draw would lose its sampler.",
    },
    ("trainer/generation/batching_engine.py", f"{BATCHING}.cb_logits_processors"): {
        "ContinuousBatchingLogitsProcessor.prepare_tensor_args(requests_with_new_token)": (
            "A draw would take the sampler of another reply."
        ),
        "ContinuousBatchingLogitsProcessor.fill_defaults(int32_tensor)": "The batch would refuse ours.",
        "ContinuousBatchingLogitsProcessorList.tensors_required": "The batch would not call our sampler.",
    },
    ("trainer/generation/batching_engine.py", "transformers"): {
        "PreTrainedModel.set_attn_implementation(attn_implementation)": "The attention would not be ours.",
        "PretrainedConfig._attn_implementation": "A stopped engine could not restore the attention.",
    },
    ("trainer/generation/paged_attention.py", f"{BATCHING}.cache"): {
        "PagedAttentionCache.update(key_states, value_states, layer_idx)": "The cache could not be read.",
        "group_layers_by_attn_type": "Models with sliding windows would get full attention.",
    },
    ("trainer/generation/paged_attention.py", "transformers"): {
        "PretrainedConfig._attn_implementation": "Models with another attention would get this one.",
        "integrations.sdpa_attention.sdpa_attention_forward(attention_mask, dropout, scaling)": (
            "Attention without a paged cache would fail."
        ),
    },
    ("trainer/model/base_model.py", "gguf"): {
        "GGUFReader": "The first start would parse the default model's file three times.",
        "get_tensor_name_map": "The first start would make its table of names for each of its modules.",
    },
    ("trainer/engine/fast/attention.py", "transformers"): {
        "integrations.sdpa_attention.sdpa_attention_forward(attention_mask, dropout, scaling)": (
            "Attention with a mask would fail."
        ),
        "masking_utils.sdpa_mask(q_length, kv_length, q_offset, kv_offset, mask_function, local_size)": (
            "Masks would be wrong."
        ),
        "masking_utils.AttentionMaskInterface.register": "Masks would have a form that it cannot read.",
    },
    ("trainer/engine/fast/layers.py", "transformers"): {
        "PreTrainedModel.set_attn_implementation(attn_implementation)": "The attention would be slow.",
        "PretrainedConfig._attn_implementation": "The attention could not be restored.",
    },
    ("trainer/engine/fast/layers.py", "peft.tuners.lora"): {
        "LoraLayer.lora_variant": "DoRA and other variants would be computed as plain LoRA.",
        "LoraLayer.lora_bias": "A bias of LoRA would be left out.",
        "LoraLayer.lora_dropout": "Dropout would be left out.",
    },
    ("trainer/engine/fast/lora.py", "peft.tuners.lora"): {
        "LoraLayer.scaling": "Adapters would have another strength.",
        "LoraLayer.active_adapters": "Which adapter to add would be unknown.",
        "LoraLayer.disable_adapters": "The reference would be computed with the adapter.",
    },
    ("trainer/engine/prefix/scorer.py", "transformers.cache_utils"): {
        "Cache.__init__(layer_class_to_replicate)": "A shared prefix could not be continued.",
        "Cache.layers": "A shared prefix could not be continued.",
        "DynamicLayer.lazy_initialization(key_states, value_states)": "Keys in fp32 would be rounded.",
        "DynamicLayer.keys": "A shared prefix could not be kept.",
        "DynamicLayer.values": "A shared prefix could not be kept.",
    },
    ("trainer/engine/prefix/scorer.py", "trl.trainer.utils"): {
        "use_adapter(model, adapter_name)": "The reference would be computed with the trained adapter.",
    },
    ("trainer/engine/trl_trainer.py", "transformers"): {
        "Trainer._save_rng_state(output_dir)": "A checkpoint would count too early.",
        "Trainer.create_accelerator_and_postprocess": "FSDP would be left out on a CPU.",
        "Trainer.get_train_dataloader": "Rows would come in another order.",
        "Trainer.is_fsdp_enabled": "Checkpoints of FSDP would be written as whole ones.",
    },
    ("trainer/engine/trl_trainer.py", "trl.trainer.kto_trainer"): {
        "KTOTrainer._compute_loss(model, inputs, return_outputs)": "Rows would lose their own weights.",
        "KTOTrainer._prepare_dataset(dataset)": "TRL would look for texts to tokenise.",
        "KTOTrainer.desirable_weight": "Rows would lose their own weights.",
        "KTOTrainer.undesirable_weight": "Rows would lose their own weights.",
        "DataCollatorForUnpairedPreference(pad_token_id, max_length)": "TRL would train on ids of its own.",
    },
    ("trainer/engine/trl_trainer.py", "accelerate"): {
        "data_loader.prepare_data_loader(device, num_processes, process_index, put_on_device)": (
            "A short micro-batch would be filled up with other rows."
        ),
        "utils.constants.FSDP_MODEL_NAME": "Checkpoints of FSDP would be taken for whole ones.",
    },
    ("trainer/launch/launcher.py", "torch.distributed.launcher.api"): {
        "LaunchConfig(rdzv_backend, rdzv_endpoint, rdzv_configs, start_method, local_addr, logs_specs)": (
            "Several processes could not start, or would listen on a port."
        ),
        "elastic_launch": "Several processes could not start.",
    },
    ("trainer/launch/launcher.py", "torch.distributed.elastic.multiprocessing"): {
        "DefaultLogsSpecs(log_dir)": "Each training would leave a folder in /tmp.",
        "errors.ChildFailedError.get_first_failure": "A lost process would fail the run.",
    },
    ("trainer/runs/ray.py", "ray.job_submission"): {
        "JobSubmissionClient._do_request(kwargs)": "A head that hangs would stop the dispatcher.",
    },
    ("trainer/runs/slurm.py", "submitit.core.utils"): {
        "JobPaths.submitted_pickle": "A restarted server would submit a second job.",
    },
    ("trainer/engine/shared_prefix_trainer.py", "transformers"): {
        "Trainer.training_step(model, inputs, num_items_in_batch)": "Out of memory would end a run.",
        "Trainer.compute_loss(model, inputs, return_outputs, num_items_in_batch)": "It would be no KTO.",
    },
    ("trainer/engine/shared_prefix_trainer.py", "accelerate.utils.memory"): {
        "clear_device_cache(garbage_collection)": "Smaller passes would run out of memory again.",
    },
    ("trainer/engine/estimates.py", "accelerate.utils.memory"): {
        "should_reduce_batch_size": "Out of memory would not be recognised on some devices.",
    },
    ("trainer/engine/callbacks.py", "transformers.integrations.integration_utils"): {
        "get_reporting_integration_callbacks(report_to)": "THUMBLOOP_REPORT_TO would know no name.",
        "TensorBoardCallback.logging_dir": "TensorBoard's events would lie in the working directory.",
    },
    ("trainer/sweep/dpo.py", "trl.trainer.dpo_trainer"): {
        "DPOTrainer._compute_loss(model, inputs, return_outputs)": "References would be computed anew.",
        "DPOTrainer._prepare_dataset(dataset)": "TRL would look for texts to tokenise.",
        "DPOTrainer.precompute_ref_logps": "References would be computed anew.",
        "DPOTrainer.compute_ref_log_probs(model, inputs)": "There would be no references.",
        "DataCollatorForPreference(pad_token_id, max_length)": "TRL would train on ids of its own.",
    },
    ("app/server.py", "gradio"): {
        "Blocks._queue": "An idle server would poll its queue a thousand times a second.",
        "queueing.Queue.sleep_when_free": "An idle server would poll its queue a thousand times a second.",
        "queueing.Queue.progress_update_sleep_when_free": "An idle server would poll for progress.",
    },
    ("app/pages/blocks.py", "gradio"): {
        "Blocks.process_api(block_fn, inputs)": "Bad input of pages would fill the log with tracebacks.",
        "Blocks.postprocess_data(block_fn, predictions)": "Each update would cost as much as a new page.",
    },
    ("app/pages/chat/page.py", "gradio"): {
        "Blocks.max_threads": "Forty streams would take all threads of the pages.",
    },
    ("app/pages/chat/transcript.py", "gradio.components.chatbot"): {
        "ComponentMessage.constructor_args": "Messages of the chat page could not be drawn.",
    },
    ("app/server.py", "starlette.routing"): {"Router.default": "The pages would not be reachable."},
    ("app/commands/serve.py", "uvicorn"): {
        "Server.startup(sockets)": "A start would not print its addresses."
    },
    ("storage/files/object_store.py", "s3fs"): {
        "S3FileSystem.retries": "A bucket's server that never answers would hold each call for minutes.",
    },
    ("storage/exports/redaction.py", "presidio_analyzer.nlp_engine"): {
        "SpacyNlpEngine.nlp": "Redaction would try to download a model.",
    },
}
ROWS = [
    (file, module, name, breaks) for (file, module), names in USES.items() for name, breaks in names.items()
]


def find(module: str, path: str) -> Any:
    """What a row names, or None where only instances have it; raises ImportError or AttributeError."""
    found: Any = import_module(module)
    for part in path.split("."):
        if inspect.ismodule(found) and not hasattr(found, part):
            found = import_module(f"{found.__name__}.{part}")
        elif inspect.isclass(found) and not hasattr(found, part):
            kinds = [kind for kind in found.__mro__ if kind.__module__ != "builtins"]
            if not any(part in inspect.get_annotations(kind) or sets(kind, part) for kind in kinds):
                raise AttributeError(f"{found.__name__} has no attribute {part}")
            found = None
        else:
            found = getattr(found, part)
    return found


def sets(kind: type, attribute: str) -> bool:
    return re.search(rf"self\.{attribute}\b[^=\n]*=[^=]", inspect.getsource(kind)) is not None


@pytest.mark.parametrize(("file", "module", "name", "breaks"), ROWS)
def test_library_has_what_we_use(file: str, module: str, name: str, breaks: str) -> None:
    path, _, parameters = name.rstrip(")").partition("(")
    try:
        found = find(module, path)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{breaks} {file} uses {module}.{path}: {error}.")
    if parameters:
        missing = set(parameters.split(", ")) - inspect.signature(found).parameters.keys()
        assert not missing, f"{breaks} {file} passes {missing} to {module}.{path}."
    used = path.removesuffix(".__init__").rpartition(".")[2]
    assert re.search(rf"\b{used}\b", (ROOT / file).read_text()), (
        f"{file} no longer uses {used}: delete this row"
    )


@pytest.mark.parametrize(
    "missing", [("gradio", "Blocks._cue"), ("gradio", "cue.Queue"), ("trl", "KTOTrainer.fit")]
)
def test_what_is_missing_is_found_missing(missing: tuple[str, str]) -> None:
    with pytest.raises((ImportError, AttributeError)):
        find(*missing)


def test_gradio_has_the_routes_that_the_page_guard_knows() -> None:
    source = inspect.getsource(gradio.routes.App.create_app)
    named = [
        "/queue/join",
        "/queue/data",
        "/heartbeat/{session_hash}",
        "/run/{api_name}",
        "/component_server",
    ]
    for route in [*named, *(path.removeprefix("/gradio_api") for path in (CANCEL, *RESETS))]:
        assert f'"{route}"' in source, f"The pages' events could not be kept apart by person: no {route}."


@pytest.mark.parametrize("package", ["accelerate", "gradio", "peft", "transformers", "trl"])
def test_next_minor_version_is_not_installed_untested(package: str) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bounds,) = [Requirement(line).specifier for line in lines if Requirement(line).name == package]
    (tested,) = [bound.version for bound in bounds if bound.operator == ">="]
    major, minor = map(int, tested.split(".")[:2])
    assert not bounds.contains(f"{major}.{minor + 1}.0"), f"{package}: cap it below {major}.{minor + 1}"


def test_damaged_files_raise_what_we_recognise(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    torch.save({"weight": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Exception, match=".") as of_torch:
        torch.load(file)
    with pytest.raises(Exception, match=".") as of_safetensors:
        load_file(file)
    assert is_damaged(of_torch.value), "A damaged checkpoint would end a run without its name and a remedy."
    assert is_damaged(of_safetensors.value), "A damaged adapter would be reported without its name."
