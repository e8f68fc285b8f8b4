"""The values of a bundle of which no data are known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from differseg_med.planning import cost_rules, data_rules
from differseg_med.planning.choices import NETWORK_SIZES, Plan
from differseg_med.planning.fingerprint import ModalityFacts, Spread
from differseg_med.planning.planner import weights_at_hand

_NOTHING = Spread(0, 0, 0, 0, 0)
_DEFAULT = "a default: no data were measured"


def plan_without_data(plan: Plan, kinds: Mapping[str, str], *, flat: bool, target: str) -> None:
    """Fill a plan with defaults.

    Args:
        plan: to fill; what the user set comes first.
        kinds: of the modalities, the reference first.
        flat: whether they are 2-D images.
        target: in the user's words.

    Raises:
        CaseError: for a value that was set and is none of the plan.
    """
    plan.choose("modalities", lambda: _modalities(kinds))
    plan.choose("reference", lambda: (next(iter(kinds)), "the first that was named"))
    size = NETWORK_SIZES[1]
    given: dict[str, Any] = {"max_epochs": 30, "iterations": 50, "batch_size": size.batch_size, "val_interval": 5}
    if flat:
        given = {"spatial_size": [352, 352], **given, "iterations": 25, "batch_size": 4, "learning_rate": 0.001}
    else:
        given = {
            "planes": ["axial", "coronal", "sagittal"],
            "pixdim": [2.0, 2.0, 2.0],
            "num_slices": 3,
            "slice_step": 2,
            "roi_size": [size.window] * 2,
            "encoder": cost_rules.SMALL_ENCODER,
            "decoder_channels": [*size.decoder_channels],
            "largest_only": False,
            "focal_gamma": 0.0,
            "foreground_prob": 0.7,
            "max_shift": 2.0 if len(kinds) > 1 else 0.0,
            **given,
        }
    for name, value in given.items():
        plan.choose(name, lambda value=value: (value, _DEFAULT))  # type: ignore[misc]
    steps = plan.choices["max_epochs"].value * plan.choices["iterations"].value
    dropout = 0.0 if len(kinds) < 2 else 0.2 if flat else 0.5
    plan.choose("modality_dropout", lambda: (dropout, "so that any modality may be missing"))
    if not flat:
        weights = plan.choose(
            "encoder_weights", lambda: cost_rules.encoder_weights(plan.choices["encoder"].value, weights_at_hand)
        )
        plan.choose("pretrained", lambda: (False, "nothing is fetched from timm's hub"))
        plan.choose("freeze_stages", lambda: cost_rules.freeze_stages(size, weights is not None))
        plan.choose("encoder_share", lambda: cost_rules.encoder_share(weights is not None))
        plan.choose("learning_rate", lambda: cost_rules.learning_rate(steps))
        plan.choose("average_decay", lambda: cost_rules.average_decay(steps))
        sided = any(word in target.casefold().split() for word in ("left", "right"))
        plan.choose("flip_prob", lambda: (0.0 if sided else 0.5, "off where the target is called left or right"))
    plan.choose("threshold", data_rules.threshold)
    plan.end()


def _modalities(kinds: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    facts = {n: ModalityFacts(kind, 0, 0, (_NOTHING,) * 3, (_NOTHING,) * 3, _NOTHING) for n, kind in kinds.items()}
    ruled = {name: data_rules.normalization(name, fact) for name, fact in facts.items()}
    return {name: settings for name, (settings, _) in ruled.items()}, "the defaults of their kinds"
