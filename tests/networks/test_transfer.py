"""Weights of a network for other modalities: each modality's part goes to that modality, whatever its place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from support.synthetic import BUNDLE

from differseg_med.bundles.networks import modalities_of_weights, training_network
from differseg_med.errors import CaseError
from differseg_med.networks import DifferSeg
from differseg_med.networks.transfer import transferred


def network(*in_channels: int, seed: int = 0, width: int = 8, fusion: str = "dpf") -> DifferSeg:
    torch.manual_seed(seed)
    return DifferSeg(in_channels, "test_resnet", (width,) * 4, fusion=fusion)


@pytest.mark.parametrize("fusion", ["dpf", "concat", "mean"])
def test_swapped_modalities_give_the_same_output(fusion):
    """A network of (t1, ct) started from one of (ct, t1) computes the same when its channels are swapped."""
    first, second = network(2, 5, fusion=fusion).eval(), network(5, 2, seed=1, fusion=fusion).eval()
    found = transferred(second, first.state_dict(), ["ct", "t1"], ["t1", "ct"])
    assert (found.new, found.unused) == ((), ())
    second.load_state_dict(found.state)
    t1, ct = torch.rand(1, 2, 32, 32), torch.rand(1, 5, 32, 32)
    torch.testing.assert_close(second(torch.cat((ct, t1), 1)), first(torch.cat((t1, ct), 1)), atol=1e-5, rtol=1e-4)


def test_what_a_modality_shares_by_name_is_taken_and_the_rest_is_told():
    source, target = network(2, 2, 2, seed=1), network(2, 2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    found = transferred(target, source.state_dict(), ["flair", "t1"], ["t1", "ct", "pet"])
    given = source.state_dict()
    assert torch.equal(found.state["stems.1.mix.weight"], given["stems.0.mix.weight"])
    assert torch.equal(found.state["stems.0.mix.weight"], before["stems.0.mix.weight"])
    bias, own = found.state["fuse.2.project.bias"], given["fuse.2.project.bias"]
    assert torch.equal(bias[8:], own[:8])
    assert torch.equal(bias[:8], before["fuse.2.project.bias"][:8])
    weight = found.state["fuse.0.weigh.0.0.weight"]
    assert torch.equal(weight[:, 8:], given["fuse.0.weigh.0.0.weight"][:, :8])
    assert found.new == ("stems.0.mix.weight",)
    assert set(found.unused) == {"stems.1.mix.weight", "stems.2.mix.weight"}
    assert all(torch.equal(found.state[name], given[name]) for name in given if name.startswith("encoder."))
    assert torch.equal(target.state_dict()["stems.1.mix.weight"], before["stems.1.mix.weight"])  # nothing is changed


def test_initial_weights_of_a_bundle_with_other_modalities(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    (bundle / "configs" / "inference.yaml").write_text("modalities:\n  t1: {kind: mr}\n  ct: {kind: ct}\n")
    source = network(2, 2, seed=1)
    torch.save(source.state_dict(), bundle / "models" / "model.pt")
    made = training_network(network(2, 2), "cpu", bundle, {"ct": {"kind": "ct"}, "flair": {"kind": "mr"}})
    assert made.training
    assert torch.equal(made.state_dict()["stems.0.mix.weight"], source.state_dict()["stems.1.mix.weight"])
    assert [r.getMessage() for r in caplog.records if "initial_weights" in r.getMessage()][1].startswith(
        "initial_weights: known modalities ct, new flair, not used t1; new tensors: stems 1; not used: stems 1"
    )
    assert modalities_of_weights(BUNDLE / "models" / "model.pt") == ["t1", "ct", "pet"]
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CaseError, match=r"nothing of these weights fits.*same encoder"):
        training_network(network(2, 2), "cpu", tmp_path / "other.pt", ["ct", "flair"])
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(CaseError, match=r"bundle: the bundle has no weights .expected models/model.pt"):
        training_network(network(2, 2), "cpu", bundle, ["ct", "flair"])
