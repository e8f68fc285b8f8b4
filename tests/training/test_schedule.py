"""Learning rates by part of the network."""

from __future__ import annotations

import pytest
import torch

from differseg_med.bundle import DifferSeg, one_cycle, optimizer


def network() -> DifferSeg:
    return DifferSeg((1, 1), "test_resnet", (8, 8, 8, 8))


def test_encoder_learns_at_its_share_of_the_rate() -> None:
    net = network()
    groups = optimizer(net, 0.01, encoder_share=0.3).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.003, 0.01])
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in net.encoder.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_without_a_share_or_a_trained_encoder_there_is_one_group() -> None:
    assert len(optimizer(network()).param_groups) == 1
    net = network()
    net.encoder.requires_grad_(False)
    assert len(optimizer(net, encoder_share=0.3).param_groups) == 1


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_one_cycle_of_few_steps_has_no_warm_up(steps: int) -> None:
    """With ten steps and a tenth of warm-up torch divides by zero."""
    weights = torch.nn.Parameter(torch.zeros(1))
    schedule = one_cycle(torch.optim.SGD([weights], lr=1.0), steps)
    rates = []
    for _ in range(steps):
        rates += schedule.get_last_lr()
        weights.grad = torch.zeros(1)
        schedule.optimizer.step()
        if len(rates) < steps:
            schedule.step()
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01


def test_one_cycle_warms_up_to_each_rate_and_ends_near_nothing() -> None:
    steps = 20
    made = optimizer(network(), 0.01, encoder_share=0.5)
    schedule = one_cycle(made, steps, warm_up=0.2)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in made.param_groups])
        made.step()
        schedule.step()
    rates = torch.tensor(rates)
    torch.testing.assert_close(rates.max(dim=0).values, torch.tensor([0.005, 0.01]))
    assert (rates[-1] < 1e-3 * rates.max()).all()
