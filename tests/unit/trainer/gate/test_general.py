"""General texts as a base model and an adapter read them."""

from pathlib import Path

import pytest
import torch

from tests.support.two_versions import ADAPTER, TwoVersions
from trainer.gate.general import general_texts, read_general
from trainer.taste.sampler import BASE, ReplySampler


@pytest.fixture(scope="module")
def sampler(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ReplySampler:
    versions = TwoVersions(tiny_model, tmp_path_factory.mktemp("general"), [])
    return ReplySampler(versions.source, {ADAPTER: versions.adapter}, versions.settings, versions.report)


def test_the_base_model_has_not_moved(sampler: ReplySampler) -> None:
    (found,) = read_general(sampler, BASE)
    assert len(found.log_probability) == len(found.kl) == len(general_texts())
    assert not found.kl.any()
    text = general_texts()[0]
    ids = sampler.tokenizer(text, return_tensors="pt", truncation=True, max_length=256).input_ids
    with sampler.model.disable_adapter():  # type: ignore[operator]
        loss = sampler.model(input_ids=ids, labels=ids).loss
    assert found.log_probability[0] == pytest.approx(-loss.item(), abs=1e-5)


def test_kl_is_that_of_the_definition_and_grows_with_the_strength(sampler: ReplySampler) -> None:
    half, full = read_general(sampler, (ADAPTER, 0.5), (ADAPTER, 1.0))
    assert (full.kl > half.kl).all()
    assert (half.kl > 0).all()
    nothing, base = read_general(sampler, (ADAPTER, 0.0), BASE)
    assert nothing.kl == pytest.approx(0.0, abs=1e-6)
    assert nothing.log_probability == pytest.approx(base.log_probability, abs=1e-5)

    ids = sampler.tokenizer(general_texts()[3], return_tensors="pt").input_ids[:, :256]
    both = []
    for name in (ADAPTER, None):
        with sampler.version(name):
            both.append(torch.log_softmax(sampler.model(input_ids=ids).logits[0, :-1].detach(), -1))
    kl = torch.nn.functional.kl_div(both[1], both[0], log_target=True, reduction="none").sum(-1).mean()
    assert full.kl[3] == pytest.approx(kl.item(), rel=1e-4)
