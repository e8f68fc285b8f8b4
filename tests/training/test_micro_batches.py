"""Micro-batches: the gradient of the whole batch, and what a step does that runs out of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.training import tiny_trainer
from torch import nn

from differseg_med.errors import CaseError, ConfigError
from differseg_med.runs.manifest import read_steps
from differseg_med.training.micro_batches import out_of_memory


class Small(nn.Module):
    """One convolution that has no room for more than ``room`` samples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.room, self.seen = nn.Conv2d(1, 1, 3, padding=1), room, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB\nmore")
        return self.layer(x)


def training(out: Path, room: int = 100, epochs: int = 1, **settings):
    """Trainings of 2 steps an epoch with 6 samples each, and a loss that is a mean over samples."""
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(1, 8, 8, generator=generator) for _ in range(4)]
    data = [{"image": x, "label": (x > 0.5).float(), "case_id": str(n)} for n, x in enumerate(images)]
    network = Small(room)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    return tiny_trainer(
        optimizer,
        data,
        out,
        network=network,
        max_epochs=epochs,
        iterations=2,
        batch_size=6,
        loss_function=nn.BCEWithLogitsLoss(),
        **settings,
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.pt", weights_only=True)["network"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a training whose batches are whole."""
    out = tmp_path_factory.mktemp("whole")
    training(out, epochs=2).run()
    return out


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_micro_batches_give_the_gradient_of_the_batch(whole, tmp_path, parts):
    engine = training(tmp_path, epochs=2, accumulate=parts)
    engine.run()
    assert sum(engine.network.seen[: min(parts, 6)]) == 6
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=1e-6)
    assert [sample["pred"].shape for sample in engine.state.output] == 6 * [engine.state.output[0]["image"].shape]
    assert read_steps(tmp_path)["train"].settings["accumulate"] == str(parts)


def test_a_step_without_memory_enough_is_repeated_in_halves_which_is_told_and_kept(whole, tmp_path, caplog):
    engine = training(tmp_path, room=2, epochs=1)
    engine.run()
    assert engine.network.seen == [6, 3, 2, 2, 1, 1, 2, 2, 1, 1]  # 6 and 3 are too many
    told = [r.getMessage() for r in caplog.records if "micro-batches" in r.getMessage()]
    assert len(told) == 2
    assert "did not suffice in step 1: from there on 4 micro-batches of a batch of 6 samples (CUDA out of" in told[1]
    step = read_steps(tmp_path)["train"]
    assert (step.remarks, step.state) == (told, "finished")
    again = training(tmp_path, room=2, epochs=2)
    again.run()
    assert again.network.seen == [2, 2, 1, 1] * 2  # not tried anew
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, rtol=0, atol=1e-6)


def test_no_room_for_a_single_sample_is_one_error(tmp_path):
    words = r"does not suffice for 1 of 6 samples \(found CUDA out of memory.*batch_size"
    with pytest.raises(CaseError, match=words) as caught:
        training(tmp_path, room=0).run()
    assert "\n" not in str(caught.value)


def test_what_is_out_of_memory_and_what_is_not():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**62, dtype=torch.uint8)
    assert out_of_memory(real.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"amp": "fp16"}, "float16 is for GPUs only"),
        ({"amp": "int8"}, "no such precision"),
        ({"accumulate": 0}, "accumulate.*1 or more"),
        ({"cuda_graph": True}, "cuda_graph.*found device cpu"),
        ({"sync_batchnorm": True}, "sync_batchnorm.*needs GPUs"),
    ],
)
def test_what_cannot_be_done_here_is_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        training(tmp_path, **settings)


def test_bfloat16_and_compile_are_used(tmp_path):
    engine = training(tmp_path / "bf16", amp="bf16")
    types = []
    engine.network.layer.register_forward_hook(lambda module, given, out: types.append(out.dtype))
    engine.run()
    assert set(types) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "bf16").values())
    compiled = training(tmp_path / "compiled", compile=True, compile_kwargs={"backend": "eager"})
    assert isinstance(compiled.network, torch._dynamo.OptimizedModule)
    compiled.run()
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "bf16").keys()  # plain names
