"""Adapters on a server with vLLM's routes: loaded under names of their own, found again, unloaded."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.serving.backend import ServedVersion
from app.serving.openai import vllm
from app.serving.openai.backend import ExternalBackend
from app.serving.openai.client import ModelServer
from storage.errors import ArtifactRefused, Busy, Conflict
from tests.support.adapters import build_adapter
from tests.support.external_backend import BASE, HELLO, SAMPLING, MakeBackend, Tokenise
from tests.support.recorded_vllm import KEY, MODEL, WORDS, Recorded, cut_after, error, recorded_vllm, status
from tests.support.threads import in_a_loop


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "good")


@pytest.fixture
def version(adapter: Path) -> ServedVersion:
    return ServedVersion("0199-uuid", "v2", adapter)


def reply(backend: ExternalBackend, version: ServedVersion) -> str:
    return backend.stream(version.id, HELLO, SAMPLING).end.content


def test_a_version_is_loaded_tried_answered_and_unloaded(
    external: ExternalBackend, vllm_server: Recorded, version: ServedVersion, adapter: Path
) -> None:
    external.load(version)
    ((name, path),) = vllm_server.adapters.items()
    assert name.startswith("thumbloop-v2-")
    assert path == str(adapter)
    assert vllm_server.asked[-1]["model"] == name
    assert vllm_server.asked[-1]["max_tokens"] == 8
    assert set(external.loaded()) == {BASE.id, version.id}
    assert reply(external, version) == "".join([f"{name}:", *WORDS])
    assert reply(external, BASE) == "".join([f"{MODEL}:", *WORDS])
    stream = external.stream(version.id, HELLO, SAMPLING)
    assert not external.unload(version.id)
    stream.cancel()
    assert stream.end.finish_reason == "cancelled"
    assert external.unload(version.id)
    assert vllm_server.adapters == {}
    assert reply(external, BASE)


def test_names_differ_by_version_content_and_installation(
    version: ServedVersion, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = build_adapter(tiny_model, tmp_path / "other", seed=2)
    same_again = ServedVersion(version.id, "v2", Path(shutil.copytree(adapter, tmp_path / "moved")))
    names = [
        vllm.adapter_name(one)
        for one in (
            version,
            ServedVersion("0199-other-installation", "v2", adapter),
            ServedVersion(version.id, "v2", other),
            ServedVersion(version.id, "v3", adapter),
        )
    ]
    assert len(set(names)) == 4
    assert vllm.adapter_name(same_again) == names[0]


def test_what_the_server_has_already_is_not_loaded_again(
    external: ExternalBackend,
    vllm_server: Recorded,
    version: ServedVersion,
    make_external: MakeBackend,
) -> None:
    name = vllm.adapter_name(version)
    vllm_server.adapters[name] = "as --lora-modules had it"
    external.load(version)
    external.load(version)
    assert "/v1/load_lora_adapter" not in vllm_server.calls
    assert reply(external, version).startswith(name)


def test_two_servers_of_ours_that_load_at_once_are_both_content(
    vllm_server: Recorded, version: ServedVersion
) -> None:
    async def load_and_unload() -> None:
        client = ModelServer(vllm_server.url, KEY, 5)
        for _ in range(2):  # the second answer is "has already been loaded"
            await vllm.load_adapter(client, version, name)
        assert set(vllm_server.adapters) == {name}
        for _ in range(2):  # the second answer is "cannot be found"
            await vllm.unload_adapter(client, name)
        await client.close()

    name = vllm.adapter_name(version)
    in_a_loop(load_and_unload())
    assert vllm_server.adapters == {}


def test_an_adapter_that_the_server_lost_is_loaded_again_in_mid_service(
    external: ExternalBackend, vllm_server: Recorded, version: ServedVersion, caplog: pytest.LogCaptureFixture
) -> None:
    external.load(version)
    vllm_server.adapters.clear()  # it was restarted
    with caplog.at_level(logging.WARNING, "thumbloop.serving"):
        assert reply(external, version).endswith("".join(WORDS))
    assert "had lost v2" in caplog.text


def test_a_server_without_the_routes_is_an_instruction_and_the_base_goes_on(
    make_external: MakeBackend, tokenise: Tokenise, version: ServedVersion, adapter: Path
) -> None:
    with recorded_vllm(tokenise, loads=False) as server:
        backend = make_external(server, local=False)
        with pytest.raises(Conflict) as refused:
            backend.load(version)
        name = vllm.adapter_name(version)
        for words in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", f"--lora-modules {name}={adapter}"):
            assert words in refused.value.message
        assert backend.loaded() == [BASE.id]
        assert reply(backend, BASE)
        server.adapters[name] = str(adapter)  # the operator did so
        backend.load(version)
        assert reply(backend, version).startswith(name)


@pytest.mark.parametrize(
    ("folder", "words"), [("rank", "greater than max_lora_rank 16"), ("unseen", "No adapter found for")]
)
def test_what_the_server_refuses_is_refused_by_name(
    external: ExternalBackend, vllm_server: Recorded, adapter: Path, tmp_path: Path, folder: str, words: str
) -> None:
    shutil.copytree(adapter, tmp_path / folder)
    with pytest.raises(ArtifactRefused, match=f"refuses v2 .*{words}.*--max-lora-rank"):
        external.load(ServedVersion("id", "v2", tmp_path / folder))
    assert external.loaded() == [BASE.id]
    assert reply(external, BASE)


def test_a_version_that_fails_its_first_try_is_refused(
    external: ExternalBackend, vllm_server: Recorded, version: ServedVersion
) -> None:
    vllm_server.script.append(status(400, error("cannot be", "BadRequestError", 400)))
    with pytest.raises(ArtifactRefused, match=r"first try of v2 failed.*cannot be"):
        external.load(version)
    assert vllm_server.adapters == {}
    vllm_server.script += [cut_after(0)] * 3
    with pytest.raises(Busy):
        external.load(version)
    assert external.loaded() == [BASE.id]


def test_a_damaged_adapter_never_reaches_the_server(
    external: ExternalBackend, vllm_server: Recorded, adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactRefused, match="not finite"):
        external.load(ServedVersion("id", "v2", folder))
    torch.save({}, folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactRefused, match="cannot be read"):
        external.load(ServedVersion("id", "v2", folder))
    assert vllm_server.adapters == {}


@pytest.mark.parametrize("loads", [True, False])
def test_whether_adapters_can_be_loaded_is_found_out_without_loading_any(
    tokenise: Tokenise, loads: bool
) -> None:
    async def ask(url: str) -> bool:
        client = ModelServer(url, KEY, 5)
        try:
            return await vllm.loads_adapters(client, 5)
        finally:
            await client.close()

    with recorded_vllm(tokenise, loads=loads) as server:
        assert in_a_loop(ask(server.url)) is loads
        assert server.adapters == {}
