"""`local` for models that do not fit: one decoder layer at a time from the files, and the states of all samples beside it.

The model stands on the meta device, without weights; what is no decoder layer (embeddings, a vision tower, the last norm, the
head) is read once. What a decoder layer is made of, transformers itself tells and makes of the files: experts that stand there
one by one, names of older layouts. A pass through one decoder layer runs the whole model, every other one passing on what it
gets, so that masks and positions are made by the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.files import Checkpoint
from quantui.checkpoint.load import empty_model
from quantui.errors import CheckpointError
from quantui.sensitivity.batches import Batch
from quantui.sensitivity.candidates import Candidate
from quantui.sensitivity.local import Local, Seen
from quantui.sensitivity.rounding import Ranges, Rounding
from quantui.sensitivity.sites import instead, routed

if TYPE_CHECKING:
    from torch import Tensor


class Streamed:
    """A model of which one decoder layer at most has weights.

    Attributes:
        model: on the meta device but for what is no decoder layer.
        stored: the torch dtype its weights are stored in; dtype: the one it computes in.
        blocks: its decoder layers.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: Any, *, image_text: bool = False, trust_remote_code: bool = False
    ) -> None:
        """Builds the model and reads what is no decoder layer.

        Raises:
            CheckpointError: the files do not hold the decoder layers as transformers knows them.
        """
        import torch
        from transformers.conversion_mapping import get_model_conversion_mapping

        self._tensors, self._device = checkpoint.tensors, device
        self.model = empty_model(checkpoint.folder, image_text=image_text, trust_remote_code=trust_remote_code)
        self.stored = self.model.dtype
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else self.stored
        self.model.to(self.dtype)
        self._mapping = get_model_conversion_mapping(self.model)
        self._name, self.blocks = self._find_blocks(checkpoint.folder)
        self._keys = self._by_block(checkpoint.folder)
        inside = {id(module) for block in self.blocks for module in block.modules()}
        for module in self.model.modules():
            if id(module) not in inside and any(True for _ in module.buffers(recurse=False)):
                module.to_empty(device=device, recurse=False)
                self.model._init_weights(module)  # frequencies of positions, which no file holds
        self._read(self._keys[len(self.blocks)])
        self.model.tie_weights()
        self.model.eval().requires_grad_(False)

    @contextmanager
    def block(self, number: int) -> Iterator[Any]:
        """A decoder layer with its weights, which it loses again; past the last one, what comes after them."""
        if number == len(self.blocks):
            yield None
            return
        block = self.blocks[number]
        self._read(self._keys[number])
        if absent := next((name for name, parameter in block.named_parameters() if parameter.is_meta), None):
            raise _unlike(
                self._tensors[self._keys[number][0]].shard.parent, f"{self._name}.{number}.{absent} is not in its files"
            )
        block.requires_grad_(False)
        try:
            yield block
        finally:
            block.to("meta")

    @contextmanager
    def only(self, number: int, states: Tensor | None, made: list[Tensor], *, ends: bool = True) -> Iterator[None]:
        """The model runs one decoder layer while the block runs.

        Args:
            states: what it gets in place of the embeddings; None for those.
            made: its output is appended to it.
            ends: whether the model's head passes on what it gets too.
        """
        with ExitStack() as stack:
            for place, block in enumerate(self.blocks):
                if place != number:
                    stack.enter_context(instead(block, self._pass_on(states if place == len(self.blocks) - 1 else None)))
            if number < len(self.blocks):
                real = self.blocks[number].forward

                def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
                    out = real(hidden if states is None else states, *args, **kwargs)
                    self._gives_tuple = isinstance(out, tuple)
                    made.append(out[0] if self._gives_tuple else out)
                    return out

                stack.enter_context(instead(self.blocks[number], run))
            if ends and self.model.get_output_embeddings() is not None:
                stack.enter_context(instead(self.model.get_output_embeddings(), lambda hidden: hidden))
            yield

    _gives_tuple = False

    def _pass_on(self, states: Tensor | None) -> Callable[..., Any]:
        def forward(hidden: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            out = hidden if states is None else states
            return (out,) if self._gives_tuple else out

        return forward

    def _find_blocks(self, folder: Path) -> tuple[str, Any]:
        import torch

        decoder = self.model.get_decoder() if hasattr(self.model, "get_decoder") else self.model
        prefix = next((name for name, module in self.model.named_modules() if module is decoder), "")
        lists = [(n, m) for n, m in decoder.named_modules(prefix=prefix) if isinstance(m, torch.nn.ModuleList)]
        wide = [one for one in lists if one[0].count(".") == min(name.count(".") for name, _ in lists)]
        if not wide:
            raise _unlike(folder, "it has no list of decoder layers")
        return max(wide, key=lambda one: len(one[1]))

    def _by_block(self, folder: Path) -> list[list[str]]:
        """Which tensors of the files each decoder layer is made of; at the end those of everything else."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [one for one in self._mapping if isinstance(one, WeightRenaming)]
        converters = [one for one in self._mapping if isinstance(one, WeightConverter)]
        known = self.model.state_dict()
        found: list[list[str]] = [[] for _ in range(len(self.blocks) + 1)]
        for key in self._tensors:
            name, _ = rename_source_key(key, renamings, converters, self.model.base_model_prefix, known)
            place = name.removeprefix(f"{self._name}.").partition(".")[0] if name.startswith(f"{self._name}.") else ""
            found[int(place) if place.isdecimal() and int(place) < len(self.blocks) else -1].append(key)
        if empty := next((number for number, keys in enumerate(found[:-1]) if not keys), None):
            raise _unlike(folder, f"no tensor of its files belongs to {self._name}.{empty}")
        return found

    def _read(self, keys: Sequence[str]) -> None:
        """Gives the model the tensors of some names in the files, as transformers makes its own of them."""
        from safetensors import safe_open
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig
        from transformers.utils import logging

        asked = LoadStateDictConfig(device_map={"": self._device}, dtype=self.dtype, weight_mapping=self._mapping)
        with ExitStack() as stack:
            if logging.is_progress_bar_enabled():  # there would be one a decoder layer
                logging.disable_progress_bar()
                stack.callback(logging.enable_progress_bar)
            shards = {self._tensors[key].shard for key in keys}
            files = {shard: stack.enter_context(safe_open(str(shard), framework="pt")) for shard in shards}
            slices = {key: files[self._tensors[key].shard].get_slice(self._tensors[key].name) for key in keys}
            convert_and_load_state_dict_in_model(self.model, slices, asked)


def local_streamed(
    streamed: Streamed,
    batches: Sequence[Batch],
    known: Sequence[Candidate],
    wanted: dict[str, tuple[int, ...]],
    *,
    told: Callable[[int, Local], None] = lambda _done, _found: None,
) -> tuple[Local, dict[str, dict[str, Any]]]:
    """What `local` finds, and the loudest channels of every input.

    Args:
        wanted: layer -> the schemes it is tried in, by their place.
        told: called after each decoder layer with how many are done and what was found so far.

    Raises:
        RuntimeError: there is not enough memory for one decoder layer.
    """
    import torch

    seen = Seen(batches, wanted)
    states: list[Tensor | None] = [None] * len(batches)
    outliers: dict[str, dict[str, Any]] = {}
    count = len(streamed.blocks)
    for number in range(count + 1):
        head = number == count
        if head and all(name.startswith(f"{streamed._name}.") for name in wanted):
            break
        with torch.no_grad(), streamed.block(number):
            ranges = Ranges()
            with routed(streamed.model, ranges.see):
                for batch, given in zip(batches, states, strict=True):
                    ranges.begin(batch.real)
                    with streamed.only(number, given, [], ends=not head):
                        streamed.model(**_inputs(batch, number), use_cache=False)
            outliers |= {name: one for name, one in ranges.outliers().items() if name in wanted}
            rounding = Rounding(known, ranges, streamed.stored)
            for place, (batch, given) in enumerate(zip(batches, states, strict=True)):
                made: list[Tensor] = []
                with (
                    seen.of(place, rounding) as see,
                    routed(streamed.model, see),
                    streamed.only(number, given, made, ends=not head),
                ):
                    streamed.model(**_inputs(batch, number), use_cache=False)
                states[place] = made[0] if made else given
        seen.settle()
        told(min(number + 1, count), seen.found)
    return seen.found, outliers


def _inputs(batch: Batch, number: int) -> dict[str, Any]:
    """What the model gets in the pass through one decoder layer: pictures are looked at in the first alone."""
    return {key: value for key, value in batch.inputs.items() if not number or not key.startswith("pixel_values")}


def _unlike(folder: Path, what: str) -> CheckpointError:
    todo = "score it on a machine with more memory, or with fewer layers"
    return CheckpointError(f"the model cannot be taken one decoder layer at a time: {what}", where=str(folder), todo=todo)
