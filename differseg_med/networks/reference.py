"""Names of the paper authors' checkpoints and where their tensors go in ours.

Our modules merge parallel convolutions of one input into one, so conversion renames and concatenates.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: The reference's names for the projections of its two modalities.
REFERENCE_STREAMS = ("rgb_proj", "depth_proj")


class _Place(NamedTuple):
    """Where a reference module goes: our module, and which of its ``parts`` along the output channels it is.

    ``leaves`` are the tensors that the module must have at least; the empty name is a parameter without a module.
    """

    name: str
    part: int = 0
    parts: int = 1
    leaves: tuple[str, ...] = ("weight", "bias")


def dpf_names(streams: Sequence[str] = REFERENCE_STREAMS) -> dict[str, _Place]:
    """Module names of the reference's DPF block and their places in `DifferentialPerceptionFusion`."""
    names = {
        **{key: _Place("project", i, len(streams)) for i, key in enumerate(streams)},
        **{
            f"learnable_{key}": _Place("kernels", i, 3, ("",))
            for i, key in enumerate(("diff_x", "diff_y", "laplacian"))
        },
    }
    names |= _layers("complementarity_net", {"0": "weigh.0.0", "1": "weigh.0.1", "3": "weigh.1"})
    for theirs, ours in (("fusion_net", "unite"), ("integration_net", "integrate")):
        names |= _layers(theirs, {"0": f"{ours}.0.0", "1": f"{ours}.0.1", "3": f"{ours}.1.0", "4": f"{ours}.1.1"})
    return names


def rfb_names() -> dict[str, _Place]:
    """The same for `ReceptiveFieldBlock`, whose five first 1x1 convolutions are one."""
    names: dict[str, _Place] = {}
    entries = ("branch0.0", "branch1.0", "branch2.0", "branch3.0", "conv_res")
    for i, (layer, leaves) in enumerate({"conv": ("weight",), "bn": ("weight", "bias")}.items()):
        names |= {f"{key}.{layer}": _Place(f"entry.{i}", part, 5, leaves) for part, key in enumerate(entries)}
        for b in range(3):
            ours = f"branches.{b}"
            names |= {f"branch{b + 1}.{k + 1}.{layer}": _Place(f"{ours}.{k}.{i}", leaves=leaves) for k in range(3)}
        names[f"conv_cat.{layer}"] = _Place(f"merge.{i}", leaves=leaves)
    return names


def decomposer_names() -> dict[str, _Place]:
    """The same for `FrequencyDecomposer`."""
    names = {f"low_pass_{k}x{k}": _Place(f"low_pass.{i}") for i, k in enumerate((3, 5, 7))}
    names |= _layers("low_freq_attention", {"0": "low_attention.0.0", "1": "low_attention.0.1", "3": "low_attention.1"})
    names |= {f"high_freq_branches.{i}.{j}": _Place(f"high_branches.{i}.{j}") for i in range(3) for j in range(2)}
    return names | _layers("high_freq_fusion", {"0": "high_gate.0", "1": "high_gate.1"})


def scale_attention_names(levels: int = 4) -> dict[str, _Place]:
    """The same for a list of `ScaleAttention`, which are one module in the reference."""
    names: dict[str, _Place] = {}
    for i in range(levels):
        for part in ("low", "high"):
            names |= {f"{part}_freq_attention.{i}.{j}": _Place(f"{i}.{part}_gate.{j}") for j in (1, 3)}
        ours = f"{i}.interact"
        names |= _layers(f"freq_interaction.{i}", {"0": f"{ours}.0.0", "1": f"{ours}.0.1", "3": f"{ours}.1"})
    return names


def upsampler_names() -> dict[str, _Place]:
    """The same for `FrequencyUpsampler`, whose three transposed convolutions per part are one."""
    names = {f"path_selector.{j}": _Place(f"select.{j}") for j in (1, 3)}
    for part in ("low", "high"):
        for i in range(3):
            names |= {f"{part}_upsamplers.{i}.{j}": _Place(f"{part}_paths.up.{j}", i, 3) for j in range(2)}
            names[f"{part}_transforms.{i}"] = _Place(f"{part}_paths.transform.{i}")
    ours = {"0": "detail.0.0", "1": "detail.0.1", "3": "detail.1.0", "4": "detail.1.1", "6": "detail.2"}
    return names | _layers("detail_recovery", ours)


def balancer_names() -> dict[str, _Place]:
    """The same for `FrequencyBalancer`."""
    names = _layers("weight_predictor", {"0": "weigh.1", "2": "weigh.3"})
    return names | _layers("final_fusion", {"0": "merge.0.0", "1": "merge.0.1", "3": "merge.1"})


def decoder_names() -> dict[str, _Place]:
    """The same for `FrequencyGuidedDecoder`."""
    names = _under("scale_attention", "attend", scale_attention_names())
    names |= _under("freq_balancer", "balance", balancer_names())
    for i in range(4):
        names |= _under(f"freq_decomposers.{i}", f"decompose.{i}", decomposer_names())
    for i in range(3):
        names |= _under(f"freq_guided_upsamplers.{i}", f"upsample.{i}", upsampler_names())
    return names


def _layers(theirs: str, ours: Mapping[str, str]) -> dict[str, _Place]:
    return {f"{theirs}.{index}": _Place(name) for index, name in ours.items()}


def _under(theirs: str, ours: str, names: Mapping[str, _Place]) -> dict[str, _Place]:
    return {f"{theirs}.{key}": place._replace(name=f"{ours}.{place.name}") for key, place in names.items()}


def _model_names(state: Mapping[str, Tensor], streams: Sequence[str]) -> dict[str, _Place]:
    """Names of the complete model; DPF and the encoder (whose depth varies) as far as the state dict has them."""
    names = _under("freq_decoder", "decode", decoder_names())
    two_streams = any(key.startswith("dpf") for key in state)
    for i in range(4):
        names |= _under(f"rfb{i + 1}", f"reduce.{i}", rfb_names())
        names |= {f"predtrans{i + 1}.{j}": _Place(f"heads.{i}.layers.{j}") for j in (0, 1, 3)}
        if two_streams:
            names |= _under(f"dpf{i + 1}", f"fuse.{i}", dpf_names(streams))
    for key in state:
        if key.startswith("encoder."):
            alone = key.startswith("encoder.pos_embed")
            module = key if alone else key.rpartition(".")[0]
            ours = module.replace(".mlp.layers.0", ".mlp.fc1").replace(".mlp.layers.1", ".mlp.fc2")
            ours = ours.replace("encoder.", "encoder.model.", 1)
            names[module] = _Place(ours, leaves=("",)) if alone else _Place(ours)
    return names


def is_dropped(key: str) -> bool:
    """Whether a key of the reference is knowingly left out: it has parameters that its forward pass never uses."""
    return ".low_freq_fusion." in f".{key}"


def convert_reference_state_dict(
    state: Mapping[str, Tensor], streams: Sequence[str] = REFERENCE_STREAMS
) -> dict[str, Tensor]:
    """Turn a state dict with the paper authors' keys into one for `DifferSeg`.

    For models of two streams (the second of one or three channels alike) and of one stream. Load the result into
    ``DifferSeg(in_channels=(3, 1), encoder="sam2_hiera_...", adapter_dim=32, decoder_channels=(64, 128, 256, 512))``.
    What is left out (see `is_dropped`) is logged.

    Args:
        state: tensors under the authors' keys.
        streams: names of the modalities' projections, in order of the input channels.

    Raises:
        ValueError: naming keys that are unknown, or missing, so that nothing is lost in silence.
    """
    dropped = [key for key in state if is_dropped(key)]
    if dropped:
        logger.info("left out %d tensors that the reference never uses, such as %s", len(dropped), dropped[0])
    return convert_names(state, _model_names(state, streams))


def convert_names(state: Mapping[str, Tensor], names: Mapping[str, _Place]) -> dict[str, Tensor]:
    """Rename a state dict and join the parts of merged layers; strict in both directions.

    Args:
        state: tensors under reference keys; gradients work too.
        names: reference module (or parameter) -> place, such as `dpf_names` returns.

    Raises:
        ValueError: for a key without a place, or a place without its tensors.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    found: dict[str, set[str]] = {source: set() for source in names}
    unknown = []
    for key, value in state.items():
        module, _, leaf = (key, "", "") if key in names else key.rpartition(".")
        if module in names:
            place = names[module]
            parts.setdefault(f"{place.name}.{leaf}".rstrip("."), {})[place.part] = value
            found[module].add(leaf)
        elif not is_dropped(key):
            unknown.append(key)
    missing = []
    for source, leaves in found.items():
        needed = {*names[source].leaves, *(("running_mean", "running_var") if "running_mean" in leaves else ())}
        missing += [f"{source}.{leaf}".rstrip(".") for leaf in sorted(needed - leaves)]
    if unknown or missing:
        raise ValueError(
            f"this is not a complete DifferSeg state dict with the authors' keys: {len(unknown)} unknown keys "
            f"{unknown[:3]}, {len(missing)} missing keys {missing[:3]}"
        )
    converted = {ours: _join(ours, [tensors[i] for i in sorted(tensors)]) for ours, tensors in parts.items()}
    for key in [key for key in converted if key.endswith(".running_mean")]:
        converted.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return converted


def _join(key: str, tensors: list[Tensor]) -> Tensor:
    if len(tensors) == 1 or tensors[0].ndim == 0:  # num_batches_tracked: equal in every part
        return tensors[0]
    return torch.cat(tensors, dim=1 if key.endswith("_paths.up.0.weight") else 0)  # transposed: (in, out, k, k)
