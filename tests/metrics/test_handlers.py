"""The measures inside MONAI's and ignite's machinery."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from support.masks import blob

from differseg_med.metrics.case import case_metrics
from differseg_med.metrics.handlers import CaseMetric

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
LABEL = blob((10, 12, 8), (5, 6, 4), (3, 3, 2))


def tensor(mask):
    return MetaTensor(torch.from_numpy(mask)[None].float(), affine=AFFINE)


@pytest.mark.parametrize("name", ["dice", "hd95_mm", "lesion_f1"])
def test_the_same_number_as_case_metrics_in_mm(name):
    predictions = [np.roll(LABEL, 1, 2), np.zeros_like(LABEL)]
    metric = CaseMetric(name)
    metric([tensor(p) for p in predictions], [tensor(LABEL)] * 2)
    expected = [case_metrics(p, LABEL, (2.0, 2.0, 5.0))[name] for p in predictions]
    assert float(metric.aggregate()) == pytest.approx(np.mean(expected))
    assert metric.get_buffer().shape == (2, 1)


def test_in_an_ignite_engine():
    batch = {"pred": [tensor(np.zeros_like(LABEL))], "label": [tensor(LABEL)]}
    engine = Engine(lambda *_: None)
    IgniteMetricHandler(
        metric_fn=CaseMetric("hd95_mm"), output_transform=from_engine(["pred", "label"]), save_details=False
    ).attach(engine, "hd95_mm")
    engine.register_events()
    engine._process_function = lambda *_: [{key: value[0] for key, value in batch.items()}]
    engine.run([0, 1])
    assert engine.state.metrics["hd95_mm"] == pytest.approx(np.linalg.norm([20, 24, 40]))


def test_reset_forgets():
    metric = CaseMetric("dice")
    metric([tensor(np.zeros_like(LABEL))], [tensor(LABEL)])
    metric.reset()
    with pytest.raises(ValueError, match="no case has been measured"):
        metric.aggregate()
    metric([tensor(LABEL)], [tensor(LABEL)])
    assert metric.aggregate() == 1


def test_what_has_no_millimetres_is_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        CaseMetric("dise")
    with pytest.raises(ValueError, match="MetaTensor"):
        CaseMetric("dice")([torch.zeros(1, 4, 4, 4)], [torch.zeros(1, 4, 4, 4)])
    with pytest.raises(ValueError, match="two masks"):
        CaseMetric("dice")([torch.zeros(2, 4, 4, 4)], [MetaTensor(torch.zeros(2, 4, 4, 4), affine=AFFINE)])
