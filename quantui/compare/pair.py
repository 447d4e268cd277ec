"""The original and the quantized model in one process, weights dequantized once, and every layer switched at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import check_loadable, summary_of
from quantui.checkpoint.load import load_model
from quantui.checkpoint.place import moved
from quantui.checkpoint.processor import load_processor
from quantui.compare.cache import RoundingCache
from quantui.compare.folders import check_pair
from quantui.compare.foreign import deal_inputs, dress
from quantui.compare.rounding import Round, mixes_rows
from quantui.compare.sites import CacheSite, Site, bytes_of, cache_sites, differing, left_to_the_engine, linear_sites
from quantui.compare.switches import ALL_ON, Side, Switches
from quantui.devices import has_float8
from quantui.formats.base import OpenFolder
from quantui.formats.catalog import FORMATS
from quantui.stats.kinds import place_of

TRANSFORMERS = ("compressed-tensors", "compressed-tensors-dense")
"""Formats that transformers opens here."""


class Pair:
    """Two models of one shape.

    Args:
        original: a transformers model in evaluation mode.
        quantized: the same class, weights dequantized.
        processor: the original's tokenizer or processor, used for both.
        image_text: whether it reads pictures.
        sites: the Linears that can be switched.
        caches: the attention layers whose K/V cache can be.
    """

    def __init__(
        self, original: Any, quantized: Any, processor: Any, *, image_text: bool, sites: list[Site], caches: list[CacheSite]
    ) -> None:
        self.models: dict[Side, Any] = {"original": original, "quantized": quantized}
        self.processor, self.image_text = processor, image_text
        self.sites = {site.name: site for site in sites}
        self.caches = {site.name: site for site in caches}
        self._others = left_to_the_engine(quantized, {*self.sites, *self.caches})
        self._rest = list(differing(quantized, original, set(self.sites)))
        for site in sites:
            site.folded = bool(self._rest)
            _share_equal(site)
        self._rounds: dict[int, tuple[Round, Round]] = {}
        self._now: Switches | None = None
        self.switch(ALL_ON)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of both."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def device(self) -> Any:
        """Where both are."""
        return self.models["original"].device

    @property
    def context(self) -> int:
        """The most tokens a prompt and its answer may have; 0 where the model does not say."""
        return int(getattr(self.models["original"].config.get_text_config(), "max_position_embeddings", 0) or 0)

    @property
    def folded(self) -> bool:
        """Whether quantization has changed parameters beside those of the layers, as smoothing changes norms."""
        return bool(self._rest)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a turn."""
        ends = self.models["original"].generation_config.eos_token_id
        return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)

    @property
    def mixes_rows(self) -> bool:
        """Whether rows of one batch change one another, so that each has to run alone."""
        rounds = [each for site in self.sites.values() for each in (site.inputs, site.outputs)]
        rounds += [each for cache in self.caches.values() for each in (cache.keys, cache.values)]
        return any(mixes_rows(each) for each in rounds)

    def is_off(self, switches: Switches) -> bool:
        """Whether nothing at all is quantized under these switches."""
        off = switches.original
        layers = all(
            name in off or not (switches.weights or (switches.activations and site.rounds_activations))
            for name, site in self.sites.items()
        )
        return layers and (not switches.kv or all(name in off for name in self.caches))

    def switch(self, switches: Switches) -> None:
        """Makes the quantized model what the switches say; pointers change, no weight is computed or copied."""
        if switches == self._now:
            return
        whole = self.is_off(switches)
        for name, site in self.sites.items():
            own = name not in switches.original
            site.set(weights=own and switches.weights, activations=own and switches.activations, whole=whole)
        for module, leaf, quantized, original in self._rest:
            module._parameters[leaf] = original if whole else quantized
        for module in self._others:
            module.quantization_enabled = switches.activations and not whole
        for name, cache in self.caches.items():
            cache.is_on = switches.kv and name not in switches.original
        self._rounds = {
            cache.index: (cache.keys, cache.values) for cache in self.caches.values() if cache.is_on and not cache.hooked
        }
        self._now = switches

    def cache(self, side: Side) -> RoundingCache:
        """An empty K/V cache for one of them, as the switches stand."""
        return RoundingCache(self.models[side].config, self._rounds if side == "quantized" else {})

    def logits(self, side: Side, inputs: Mapping[str, Any], cache: Any = None, *, keep: int = 0) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) of one model.

        Args:
            inputs: as the processor gives them.
            cache: what earlier tokens have left; a fresh one if None, since keys and values are rounded on their way there.
            keep: how many of the last tokens are wanted; 0 for all.
        """
        with torch.inference_mode():
            made = self.models[side](
                **inputs, past_key_values=cache if cache is not None else self.cache(side), use_cache=True, logits_to_keep=keep
            )
        logits: torch.Tensor = made.logits
        return logits

    def layers(self) -> list[dict[str, Any]]:
        """Every switch by name: its block, kind and scheme, in the order of the model."""
        rows = [_row(site, place_of(name).kind) for name, site in self.sites.items()]
        rows += [_row(site, "kv") for site in self.caches.values()]
        return rows

    def memory(self) -> dict[str, int]:
        """Bytes of weights: of the original, of the quantized model's own, and of what they share."""
        first = list(self.models["original"].parameters())
        known = {parameter.data_ptr() for parameter in first}
        second = [parameter for site in self.sites.values() for parameter in site.quantized.values()]
        second += [quantized for _, _, quantized, _ in self._rest]
        taken = {f"{name}.{leaf}" for name, site in self.sites.items() for leaf in site.quantized}
        second += [one for name, one in self.models["quantized"].named_parameters() if name not in taken]
        own = [parameter for parameter in second if parameter.data_ptr() not in known]
        total = bytes_of(first)
        mine = {parameter.data_ptr() for parameter in second}
        shared = bytes_of([parameter for parameter in first if parameter.data_ptr() in mine])
        return {"original": total, "quantized": bytes_of(own), "shared": shared}


def open_pair(original: Path, quantized: Path, *, device: Any = "cpu", trust_remote_code: bool = False) -> Pair:
    """Loads both models.

    Args:
        original: folder of the float model.
        quantized: folder in any format that `quantui.formats` reads.
        device: a torch device.

    Raises:
        CheckpointError: one cannot be loaded, or they differ in shape or tokenizer.
        DeviceError: they do not both fit.
    """
    check_pair(original, quantized)
    checkpoint = open_checkpoint(original)
    check_loadable(checkpoint, trust_remote_code=trust_remote_code)
    image_text = summary_of(checkpoint).kind == "image-text"
    processor = load_processor(original, image_text=image_text, trust_remote_code=trust_remote_code)
    first = _loaded(original, device, image_text=image_text, trust_remote_code=trust_remote_code)
    folders = (original, quantized)
    second, sites, caches = _opened(folders, first, device, image_text=image_text, trust_remote_code=trust_remote_code)
    return Pair(first, second, processor, image_text=image_text, sites=sites, caches=caches)


def _opened(
    folders: tuple[Path, Path], twin: Any, device: Any, *, image_text: bool, trust_remote_code: bool
) -> tuple[Any, list[Site], list[CacheSite]]:
    original, folder = folders
    opened = _foreign(folder)
    if opened is None:
        where = torch.device(device)
        begun = where if has_float8(where) else torch.device("cpu")  # no weight is float8 any more once it is decompressed
        second = _loaded(folder, begun, image_text=image_text, trust_remote_code=trust_remote_code)
        decompress(second)
        if begun != where:
            second = _moved(second, where)
        sites = linear_sites(second, twin)
        deal_inputs(sites, folder)
        return second, sites, cache_sites(second)
    second = _loaded(original, device, image_text=image_text, trust_remote_code=trust_remote_code)
    sites, caches = dress(second, twin, opened, open_checkpoint(original).config)
    return second, sites, caches


def _loaded(folder: Path, device: Any, **kind: bool) -> Any:
    model = load_model(folder, **kind).requires_grad_(False)
    return _moved(model, torch.device(device))


def _moved(model: Any, device: Any) -> Any:
    return moved(model, device, todo="both models have to fit: end what else uses the device, or choose cpu")


def _foreign(folder: Path) -> OpenFolder | None:
    """The folder as `quantui.formats` reads it, where transformers does not open it here."""
    held = next((held for name, held in FORMATS.items() if name not in TRANSFORMERS and held.opens(folder)), None)
    return held.open(folder) if held is not None else None


def decompress(model: Any) -> None:
    """Gives a model that transformers has opened its float weights, once and for all."""
    from compressed_tensors.compressors.base import decompress_module
    from compressed_tensors.quantization import QuantizationStatus
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize

    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    quantizer.compressor.remove_decompression_hook(model)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None or not isinstance(module, torch.nn.Linear):
            continue
        if module.quantization_status == QuantizationStatus.COMPRESSED:
            decompress_module(module, quantizer.compressor.force_compression_format)  # not the whole model: that offloads it
        elif module.quantization_status < QuantizationStatus.COMPRESSED:  # saved with its float weights
            weight = forward_quantize(module, module.weight.data, "weight", scheme.weights)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)


def _row(site: Site | CacheSite, kind: str) -> dict[str, Any]:
    place = place_of(site.name)
    return {
        "name": site.name,
        "block": place.block,
        "kind": kind,
        "vision": place.vision,
        "scheme": site.words,
        "bits": site.bits,
    }


def _share_equal(site: Site) -> None:
    """Lets a parameter that quantization left as it was be the original's own, as biases often are."""
    for leaf, own in site.quantized.items():
        other = site.original.get(leaf)
        if other is not None and own.shape == other.shape and own.dtype == other.dtype and torch.equal(own, other):
            site.quantized[leaf] = other
