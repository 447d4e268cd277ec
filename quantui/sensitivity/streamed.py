"""`local` for models that do not fit: one decoder layer at a time from the files, and the states of all samples beside it.

The model stands on the meta device, without weights; what is no decoder layer (embeddings, the last norm, the head) is read
once. A pass through one decoder layer runs the whole model with every other one passing on what it gets, so that masks and
positions are made by the model itself.
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

    def __init__(self, checkpoint: Checkpoint, device: Any, *, trust_remote_code: bool = False) -> None:
        """Builds the model and reads what is no decoder layer.

        Raises:
            CheckpointError: the files do not hold the decoder layers as the model has them, tensor by tensor.
        """
        import torch

        self._tensors, self._device = checkpoint.tensors, device
        self.model = empty_model(checkpoint.folder, trust_remote_code=trust_remote_code)
        self._name, self.blocks = self._find_blocks(checkpoint.folder)
        self.stored = self.model.dtype
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else self.stored
        inside = {id(module) for block in self.blocks for module in block.modules()}
        for name, module in self.model.named_modules():
            if id(module) in inside:
                continue
            if any(True for _ in module.buffers(recurse=False)):
                module.to_empty(device=device, recurse=False)
                self.model._init_weights(module)  # frequencies of positions, which no file holds
            self._fill(name, module)
        self.model.tie_weights()
        self.model.eval().requires_grad_(False)

    @contextmanager
    def block(self, number: int) -> Iterator[Any]:
        """A decoder layer with its weights, which it loses again; past the last one, what comes after them."""
        if number == len(self.blocks):
            yield None
            return
        block = self.blocks[number]
        for name, module in block.named_modules(prefix=f"{self._name}.{number}"):
            self._fill(name, module)
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

        lists = [(name, module) for name, module in self.model.named_modules() if isinstance(module, torch.nn.ModuleList)]
        wide = [one for one in lists if one[0].count(".") == min(name.count(".") for name, _ in lists)]
        if not wide:
            raise _unlike(folder, "it has no list of decoder layers")
        name, blocks = max(wide, key=lambda one: len(one[1]))
        absent = [key for key, _ in blocks.named_parameters(prefix=name) if key not in self._tensors]
        if absent:
            raise _unlike(folder, f"{absent[0]} is not in its files under that name")
        return name, blocks

    def _fill(self, name: str, module: Any) -> None:
        """Gives a module's own parameters and buffers their values from the files."""
        import torch
        from safetensors import safe_open

        for key, parameter in list(module.named_parameters(recurse=False)):
            tensor = self._tensors.get(f"{name}.{key}")
            if tensor is None:
                continue  # tied to another, which has a file's
            with safe_open(str(tensor.shard), framework="pt") as file:
                value = file.get_tensor(tensor.name)
            value = value.to(self._device, self.dtype if parameter.is_floating_point() else value.dtype)
            setattr(module, key, torch.nn.Parameter(value, requires_grad=False))


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
                        streamed.model(**batch.inputs, use_cache=False)
            outliers |= {name: one for name, one in ranges.outliers().items() if name in wanted}
            rounding = Rounding(known, ranges, streamed.stored)
            for place, (batch, given) in enumerate(zip(batches, states, strict=True)):
                made: list[Tensor] = []
                with (
                    seen.of(place, rounding) as see,
                    routed(streamed.model, see),
                    streamed.only(number, given, made, ends=not head),
                ):
                    streamed.model(**batch.inputs, use_cache=False)
                states[place] = made[0] if made else given
        seen.settle()
        told(min(number + 1, count), seen.found)
    return seen.found, outliers


def _unlike(folder: Path, what: str) -> CheckpointError:
    todo = "score it on a machine with more memory, or with fewer layers"
    return CheckpointError(f"the model cannot be taken one decoder layer at a time: {what}", where=str(folder), todo=todo)
