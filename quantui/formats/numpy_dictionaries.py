"""msModelSlim's numpy files: each a pickled dictionary of torch tensors, by module.

quant_weight.npy has every weight but the norms', which are in anti_fp_norm.npy by their full names; weight_scale,
weight_offset, input_scale, input_offset, quant_bias and deq_scale go by module, kv_cache_scale and kv_cache_offset by their
full names. The original keeps a module's bias under the same key as its weight and so loses the weight; here it stands under
`<module>.bias`.
Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/save/saver/npy.py of 26.1.0.

Pickles are read without running what is in them. A dictionary is read as a whole, since a pickle cannot be read in parts; what
is written is streamed.
"""

from __future__ import annotations

import io
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.errors import CheckpointError
from quantui.formats import ascend_labels as labels
from quantui.formats import ascend_read as reading
from quantui.formats import ascend_write as writing
from quantui.formats.base import CacheOutline, CacheScales, LayerPart, OpenFolder, Outline
from quantui.formats.stream import Named
from quantui.formats.tensors import read_tensor

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "quant_weight"
NORMS = "anti_fp_norm"
BY_MODULE = ("weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale")
BY_NAME = ("kv_cache_scale", "kv_cache_offset")
REMEDY = "save it as safetensors too, or quantize the model again"


@dataclass(frozen=True)
class NumpyDictionaries:
    """The format."""

    name: str = "numpy"

    def opens(self, folder: Path) -> bool:
        """Whether quant_weight.npy is there, and no safetensors that hold the same."""
        return (folder / f"{WEIGHTS}.npy").is_file() and not reading.weight_files(folder)

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`; the dictionaries are unpacked into a temporary folder, from which layers are then read."""
        from safetensors.torch import save_file

        found = reading.description_of(folder)
        if found is None:
            what = "there is no quant_model_description, without which the dictionaries do not tell the scheme"
            raise CheckpointError(what, where=str(folder), todo=REMEDY)
        file, body = found
        held = _unpacked(folder, body)
        kept = tempfile.TemporaryDirectory(prefix="quantui-numpy-")
        unpacked = Path(kept.name)
        save_file(held, str(unpacked / "quant_model_weight.safetensors"))
        for extra in (file.name, "config.json", reading.ABSMAX):
            if (folder / extra).is_file():
                shutil.copy(folder / extra, unpacked / extra)
        opened = reading.open_folder(unpacked, self.name)
        return replace(opened, folder=folder, extras=opened.extras | {"unpacked": kept})

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`."""
        if refused := labels.refusal(outline, packed=False):
            return refused
        if labels.of_rank(outline) is not outline:
            return "each tensor-parallel rank has scales of its own, for which there are no dictionaries: export to msmodelslim"
        return "its scales have two stages, for which there is no dictionary" if outline.weights.two_stage else None

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        from quantui.formats.ascend import Ascend

        return Ascend("msmodelslim", packed=False).refusal_of_cache(cache)

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`; a dictionary is one file, however large."""
        small: dict[str, Named] = {}
        names: list[str] = []
        _save(folder / f"{WEIGHTS}.npy", _weights(source, small, names))
        for stem, tensors in small.items():
            _save(folder / f"{stem}.npy", iter(tensors.items()))
        kind = writing.quant_type(source)
        body = writing.description(source, names, packed=False)
        writing.write_json(folder / f"quant_model_description_{kind.lower()}.json", body)
        writing.write_absmax(source, folder)
        if source.config:
            writing.write_json(folder / "config.json", source.config)


def _weights(source: OpenFolder, small: dict[str, Named], names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The entries of quant_weight.npy one by one; what goes into other files is put into `small` on the way.

    Args:
        names: gets the name of every tensor in the order of the model.
    """
    before = writing.cache_tensors(source)
    after = writing.norm_tensors(source, twice=False)
    for part in source.parts:
        owner = part.name if isinstance(part, LayerPart) else part.name.rpartition(".")[0]
        held = dict(before.pop(owner, {}))
        if isinstance(part, LayerPart):
            held |= writing.tensors_of(part.load(False), packed=False)
        elif ".module." not in part.name:
            held |= {part.name: read_tensor(part.tensor)} | after.pop(owner, {})
        for name, tensor in held.items():
            names.append(name)
            module, _, leaf = name.rpartition(".")
            if leaf in BY_MODULE:
                small.setdefault(leaf, {})[module] = tensor
            elif leaf in BY_NAME:
                small.setdefault(leaf, {})[name] = tensor
            elif module.endswith("norm"):
                small.setdefault(NORMS, {})[name] = tensor
            else:
                yield (module if leaf == "weight" else name), tensor


class _Streamed:
    """A dictionary whose entries are made while it is pickled."""

    def __init__(self, entries: Iterator[tuple[str, Tensor]]) -> None:
        self._entries = entries

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), None, None, self._entries


class _Pickler(pickle.Pickler):
    """Writes tensors in a way that does not depend on where they stood in memory."""

    def reducer_override(self, held: Any) -> Any:
        """What a tensor is made of again."""
        import torch

        if not isinstance(held, torch.Tensor):
            return NotImplemented
        stored = io.BytesIO()
        torch.save(held.detach().clone(memory_format=torch.contiguous_format), stored)
        return torch.storage._load_from_bytes, (stored.getvalue(),)


def _save(path: Path, entries: Iterator[tuple[str, Tensor]]) -> None:
    """Writes what `numpy.save` makes of a dictionary."""
    import numpy as np

    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickler = _Pickler(file, protocol=4)
        pickler.fast = True  # no memo, which would keep every tensor until the end
        array = np.empty((), dtype=object)
        array[()] = _Streamed(entries)
        pickler.dump(array)


class _Unpickler(pickle.Unpickler):
    """Reads such a dictionary and nothing else: only what makes arrays and tensors may be named in it."""

    def find_class(self, module: str, name: str) -> Any:
        """The few things that a dictionary of tensors is made of.

        Raises:
            UnpicklingError: it names another.
        """
        made = _known().get((module.replace("numpy._core", "numpy.core"), name))
        if made is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return made


def _known() -> dict[tuple[str, str], Callable[..., Any] | type]:
    import numpy as np
    import torch

    def load(stored: bytes) -> Any:
        return torch.load(io.BytesIO(stored), weights_only=True)

    def parameter(data: Any, *_: Any) -> Any:
        return data

    from numpy._core.multiarray import _reconstruct

    return {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("torch.storage", "_load_from_bytes"): load,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "dict"): dict,
    }


def _load(path: Path) -> dict[str, Tensor]:
    """The dictionary of one file; {} where there is none.

    Raises:
        CheckpointError: it is damaged, or more than a dictionary of tensors.
    """
    import numpy as np
    import torch

    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            header(file)
            held = _Unpickler(file).load().item()
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(
            f"it is no dictionary of tensors ({reason})", where=str(path), todo="copy the file again"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(name, str) and isinstance(held[name], torch.Tensor) for name in held):
        raise CheckpointError("it is no dictionary of tensors", where=str(path), todo="copy the file again")
    return held


def _unpacked(folder: Path, body: dict[str, Any]) -> Named:
    """Every tensor by its full name.

    Raises:
        CheckpointError: a weight has been overwritten by its bias.
    """
    held: Named = {}
    for key, tensor in _load(folder / f"{WEIGHTS}.npy").items():
        name = key if f"{key}.weight" not in body and key in body else f"{key}.weight"
        if tensor.ndim == 1 and tensor.is_floating_point() and body.get(name) not in (None, labels.FLOAT, "NF4"):
            if not key.endswith("norm.module"):
                what = (
                    f"{key} has its bias where its weight should be, as msModelSlim's numpy files have for layers with a bias"
                )
                raise CheckpointError(what, where=str(folder), todo=REMEDY)
            continue
        held[name] = tensor
    for leaf in BY_MODULE:
        held |= {f"{module}.{leaf}": tensor for module, tensor in _load(folder / f"{leaf}.npy").items()}
    for stem in (*BY_NAME, NORMS):
        held |= _load(folder / f"{stem}.npy")
    stored: set[int] = set()
    for name, tensor in held.items():
        held[name] = tensor.detach().contiguous()
        if held[name].data_ptr() in stored:  # tied weights, which a file of safetensors does not hold
            held[name] = held[name].clone()
        stored.add(held[name].data_ptr())
    return held
