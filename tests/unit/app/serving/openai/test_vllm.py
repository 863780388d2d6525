"""Adapters on a server with vLLM's routes: loaded under names of their own, found again, unloaded."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.serving.backend import ServedVersion
from app.serving.openai import vllm
from app.serving.openai.backend import ExternalBackend
from app.serving.openai.client import ModelServer
from app.serving.reply import Sampling
from storage.errors import ArtifactRefused, Busy, Conflict
from storage.settings import Settings
from tests.support.adapters import build_adapter
from tests.support.recorded_vllm import KEY, MODEL, WORDS, Recorded, cut_after, error, recorded_vllm, status

T = TypeVar("T")
HELLO = [{"role": "user", "content": "Hello"}]
SAMPLING = Sampling(temperature=0, top_p=1, max_new_tokens=24)
BASE = ServedVersion("base", "v1", None)


def count(said: Any) -> list[int]:
    return list(range(len(said)))


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "good")


@pytest.fixture
def server() -> Iterator[Recorded]:
    with recorded_vllm(count) as recorded:
        yield recorded


@pytest.fixture
def make_backend(tmp_path: Path) -> Iterator[Callable[[Recorded], ExternalBackend]]:
    backends = []

    def make(server: Recorded) -> ExternalBackend:
        given = {"openai_base_url": server.url, "openai_api_key": KEY, "openai_model": MODEL}
        backends.append(ExternalBackend(Settings(data_dir=tmp_path, backend="openai", **given), None))  # type: ignore[arg-type]
        backends[-1].load(BASE)
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def backend(server: Recorded, make_backend: Callable[[Recorded], ExternalBackend]) -> ExternalBackend:
    return make_backend(server)


@pytest.fixture
def version(adapter: Path) -> ServedVersion:
    return ServedVersion("0199-uuid", "v2", adapter)


def reply(backend: ExternalBackend, version: ServedVersion) -> str:
    return backend.stream(version.id, HELLO, SAMPLING).end.content


def test_a_version_is_loaded_tried_answered_and_unloaded(
    backend: ExternalBackend, server: Recorded, version: ServedVersion, adapter: Path
) -> None:
    backend.load(version)
    ((name, path),) = server.adapters.items()
    assert name.startswith("thumbloop-v2-")
    assert path == str(adapter)
    assert server.asked[-1]["model"] == name
    assert server.asked[-1]["max_tokens"] == 8
    assert set(backend.loaded()) == {BASE.id, version.id}
    assert reply(backend, version) == "".join([f"{name}:", *WORDS])
    assert reply(backend, BASE) == "".join([f"{MODEL}:", *WORDS])
    stream = backend.stream(version.id, HELLO, SAMPLING)
    assert not backend.unload(version.id)
    stream.cancel()
    assert stream.end.finish_reason == "cancelled"
    assert backend.unload(version.id)
    assert server.adapters == {}
    assert reply(backend, BASE)


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
    backend: ExternalBackend,
    server: Recorded,
    version: ServedVersion,
    make_backend: Callable[[Recorded], ExternalBackend],
) -> None:
    name = vllm.adapter_name(version)
    server.adapters[name] = "as --lora-modules had it"
    backend.load(version)
    backend.load(version)
    assert "/v1/load_lora_adapter" not in server.calls
    assert reply(backend, version).startswith(name)


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread: in this one, Playwright's loop may be running when browser tests came before."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def test_two_servers_of_ours_that_load_at_once_are_both_content(
    server: Recorded, version: ServedVersion
) -> None:
    async def load_and_unload() -> None:
        client = ModelServer(server.url, KEY, 5)
        for _ in range(2):  # the second answer is "has already been loaded"
            await vllm.load_adapter(client, version, name)
        assert set(server.adapters) == {name}
        for _ in range(2):  # the second answer is "cannot be found"
            await vllm.unload_adapter(client, name)
        await client.close()

    name = vllm.adapter_name(version)
    in_a_loop(load_and_unload())
    assert server.adapters == {}


def test_an_adapter_that_the_server_lost_is_loaded_again_in_mid_service(
    backend: ExternalBackend, server: Recorded, version: ServedVersion, caplog: pytest.LogCaptureFixture
) -> None:
    backend.load(version)
    server.adapters.clear()  # it was restarted
    with caplog.at_level(logging.WARNING, "thumbloop.serving"):
        assert reply(backend, version).endswith("".join(WORDS))
    assert "had lost v2" in caplog.text


def test_a_server_without_the_routes_is_an_instruction_and_the_base_goes_on(
    make_backend: Callable[[Recorded], ExternalBackend], version: ServedVersion, adapter: Path
) -> None:
    with recorded_vllm(count, loads=False) as server:
        backend = make_backend(server)
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
    backend: ExternalBackend, server: Recorded, adapter: Path, tmp_path: Path, folder: str, words: str
) -> None:
    shutil.copytree(adapter, tmp_path / folder)
    with pytest.raises(ArtifactRefused, match=f"refuses v2 .*{words}.*--max-lora-rank"):
        backend.load(ServedVersion("id", "v2", tmp_path / folder))
    assert backend.loaded() == [BASE.id]
    assert reply(backend, BASE)


def test_a_version_that_fails_its_first_try_is_refused(
    backend: ExternalBackend, server: Recorded, version: ServedVersion
) -> None:
    server.script.append(status(400, error("cannot be", "BadRequestError", 400)))
    with pytest.raises(ArtifactRefused, match=r"first try of v2 failed.*cannot be"):
        backend.load(version)
    assert server.adapters == {}
    server.script += [cut_after(0)] * 3
    with pytest.raises(Busy):
        backend.load(version)
    assert backend.loaded() == [BASE.id]


def test_a_damaged_adapter_never_reaches_the_server(
    backend: ExternalBackend, server: Recorded, adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactRefused, match="not finite"):
        backend.load(ServedVersion("id", "v2", folder))
    torch.save({}, folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactRefused, match="cannot be read"):
        backend.load(ServedVersion("id", "v2", folder))
    assert server.adapters == {}


@pytest.mark.parametrize("loads", [True, False])
def test_whether_adapters_can_be_loaded_is_found_out_without_loading_any(loads: bool) -> None:
    async def ask(url: str) -> bool:
        client = ModelServer(url, KEY, 5)
        try:
            return await vllm.loads_adapters(client, 5)
        finally:
            await client.close()

    with recorded_vllm(count, loads=loads) as server:
        assert in_a_loop(ask(server.url)) is loads
        assert server.adapters == {}
