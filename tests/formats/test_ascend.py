"""What msModelSlim wrote is read, and written again byte for byte; what it would write of anything else can be read back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quantui.errors import CheckpointError, OutputError
from quantui.formats.ascend import Ascend
from quantui.formats.ascend_labels import DYNAMIC_INT8, STATIC_INT8
from quantui.formats.ascend_read import plain_deq_scale
from quantui.formats.ascend_write import activation_tensors, tensors_of
from quantui.formats.catalog import open_quantized
from quantui.numerics.quantized import Inputs, Outline, QuantizedLayer, Weights
from quantui.recipe import llmcompressor
from quantui.recipe.importing import import_text
from tests.formats.folders import files_of
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/msmodelslim"
SCENARIOS = sorted(folder.name for folder in FIXTURES.iterdir() if list(folder.glob("quant_model_weight*")))
MINDIE, V1 = Ascend("msmodelslim", packed=False), Ascend("ascend-v1", packed=True)


@pytest.fixture(scope="module")
def floats() -> dict[str, torch.Tensor]:
    """The weights the fixtures were quantized from."""
    return {name: load_file(FIXTURES / name / "model.safetensors") for name in ("model", "model-bf16")}  # type: ignore[misc]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_folder_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    opened = open_quantized(FIXTURES / name)
    {"msmodelslim": MINDIE, "ascend-v1": V1}[opened.format].write(opened, tmp_path)
    assert files_of(tmp_path) == files_of(FIXTURES / name)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if not name.startswith(("anti", "nf4"))])
def test_weights_come_back_within_half_a_scale(name: str, floats: dict[str, dict[str, torch.Tensor]]) -> None:
    original = floats["model-bf16" if name == "w8a8_bf16" else "model"]
    for layer in open_quantized(FIXTURES / name).read():
        off = (layer.dequantize() - original[f"{layer.name}.weight"].float()).abs()
        scale, rounding = step_of(layer), 0.251 if name == "w8a8_bf16" else 1e-4
        # w4a8 rounds twice: to 8 bits of the row's scale, then to 4 bits of the group's
        inner = layer.scale.float() / 2 if layer.second is not None and layer.scale is not None else 0  # type: ignore[operator]
        assert bool((off <= scale * (0.5 + rounding) + inner).all())


def step_of(layer: QuantizedLayer) -> torch.Tensor:
    """The distance of two neighbouring codes, for every weight."""
    zero = dataclasses.replace(layer, codes=torch.zeros_like(layer.codes), zero=None)
    return dataclasses.replace(zero, codes=torch.ones_like(layer.codes)).dequantize()


@pytest.mark.parametrize("name", ["w8a8", "w8a8_bf16", "anti_m4", "mix_cfg"])
def test_bias_and_scale_of_the_products_are_computed_as_there(name: str) -> None:
    for layer in open_quantized(FIXTURES / name).read():
        if layer.quant_bias is not None:
            theirs = activation_tensors(layer)
            ours = activation_tensors(dataclasses.replace(layer, quant_bias=None, deq_scale=None))
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_row_of_zeros_keeps_its_bias(dtype: str) -> None:
    """Its scale is the least there is, in steps of which the bias would not fit into int32."""
    layer = random_layer(Weights(), STATIC_INT8, 4, 64, bias=True, dtype=dtype)
    assert layer.scale is not None and layer.bias is not None
    layer.scale[0], layer.bias[0], layer.codes[0] = 1.1920929e-07, 10.0, 0
    made = activation_tensors(layer)
    quant_bias, deq = made["quant_bias"], made["deq_scale"]
    assert quant_bias is not None and deq is not None
    assert float(quant_bias[0] * plain_deq_scale(deq)[0]) == 10.0
    layer.codes[0, 0] = 1
    with pytest.raises(OutputError, match=r"q_proj: its bias of 10 in row 0 is too large for int32"):
        activation_tensors(layer)


def test_products_of_small_scales_in_float16_are_not_rounded_to_it() -> None:
    layer = random_layer(Weights(), STATIC_INT8, 16, 64, dtype="float16")
    assert layer.scale is not None and layer.input_scale is not None
    layer.scale.mul_(0.01)
    made = activation_tensors(layer)["deq_scale"]
    assert made is not None
    wanted = layer.scale.reshape(-1).double() * layer.input_scale.double()
    assert float((plain_deq_scale(made).double() / wanted - 1).abs().max()) < 1e-6


def test_shards_are_named_and_listed_as_there(tmp_path: Path) -> None:
    MINDIE.write(open_quantized(FIXTURES / "w8a8"), tmp_path, part_bytes=1024**3)
    (index,) = tmp_path.glob("*.index.json")
    theirs = json.loads((FIXTURES / "w8a8_named_sharded/my_w.safetensors.index.json").read_text())["weight_map"]
    made = json.loads(index.read_text())
    assert index.name == "quant_model_weight_w8a8.safetensors.index.json"
    assert set(made["weight_map"].values()) == {"quant_model_weight_w8a8-00001-of-00001.safetensors"}
    assert [name for name in theirs if ".layers.0." in name][:20] == [
        name for name in made["weight_map"] if ".layers.0." in name
    ][:20]
    small = tmp_path / "small"
    small.mkdir()
    MINDIE.write(open_quantized(FIXTURES / "w8a8"), small, part_bytes=60_000)
    assert len(list(small.glob("*-of-*.safetensors"))) > 3
    again = [layer.dequantize() for layer in open_quantized(small).read()]
    assert all(torch.equal(a, layer.dequantize()) for a, layer in zip(again, open_quantized(tmp_path).read(), strict=True))


def test_mindie_is_told_what_the_recipe_says(tmp_path: Path) -> None:
    """And told the same by a folder that was read back; a model with pictures has the other script's keys."""
    layer = random_layer(Weights(), STATIC_INT8, 32, 64)
    recipe = import_text("--w_bit 8 --a_bit 8 --act_method 3 --anti_method m4 --disable_level L2", "msmodelslim").recipe
    parts = {"vision_config": {"a": 1}, "text_config": {}}
    for number, config in enumerate(({}, parts)):
        source, made, again = (tmp_path / f"{stage} {number}" for stage in ("source", "made", "again"))
        opened = folder_of([layer], source)
        carried_out = recipe.model_copy(update={"fallback": None})  # what a job leaves: its layers are in `ignore` by then
        (source / "recipe.yaml").write_text(llmcompressor.dumps(carried_out))
        (source / "quantui.json").write_text(json.dumps({"recipe": llmcompressor.dumps(recipe)}))
        made.mkdir()
        again.mkdir()
        MINDIE.write(dataclasses.replace(opened, folder=source, config=opened.config | config), made)
        MINDIE.write(open_quantized(made), again)
        body = json.loads((made / "config.json").read_text())
        said = body["quantization_config"]
        assert (body["quantize"], said["act_method"], said["anti_method"], said["w_bit"]) == ("w8a8", 3, "m4", 8)
        assert said.get("disable_level") == (None if config else "L2")
        assert all(body[part] == held | {"quantize": "w8a8"} for part, held in config.items())
        assert body == json.loads((again / "config.json").read_text())
        assert "quantize" not in json.dumps(open_quantized(again).config)


STAGED = Weights(bits=4, strategy="group", group_size=32, two_stage=True)


def test_scale_bias_has_a_part_for_every_rank_where_they_share_the_input(tmp_path: Path) -> None:
    leaves = ("self_attn.q_proj", "mlp.down_proj", "attention.wqkv", "feed_forward.w2", "feed_forward.w1")
    layers = [random_layer(STAGED, DYNAMIC_INT8, 4, 64, leaf=leaf) for leaf in leaves]
    V1.write(folder_of(layers, tmp_path / "plain"), tmp_path)
    made = load_file(tmp_path / "quant_model_weight_w4a8_dynamic.safetensors")
    widths = [made[f"model.layers.0.{leaf}.scale_bias"].shape for leaf in leaves]
    assert widths == [(4, 1), (4, 16), (4, 1), (4, 16), (4, 1)]
    whole = made["model.layers.0.mlp.down_proj.scale_bias"].sum(1, keepdim=True)
    rounded = dataclasses.replace(layers[1], scale=layers[1].scale.bfloat16(), second=layers[1].second.bfloat16())  # type: ignore[union-attr]
    torch.testing.assert_close(whole, 8 * rounded.dequantize().sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("weights", "inputs", "shape", "packed", "said"),
    [
        (Weights(bits=4), None, (4, 63), True, "odd number"),
        (Weights(bits=4, strategy="group", group_size=32), None, (3, 64), True, "output rows"),
        (Weights(bits=4, strategy="group", group_size=16), None, (4, 64), False, "groups have 16"),
        (Weights(bits=4, strategy="group", group_size=32), DYNAMIC_INT8, (4, 64), False, "scales in two stages"),
        (Weights("float8", 8, "tensor"), Inputs("float8"), (4, 64), False, "none of msModelSlim's schemes"),
        (Weights(bits=4, strategy="group", group_size=40, two_stage=True), DYNAMIC_INT8, (4, 40), True, "groups have 40"),
    ],
)
def test_what_it_cannot_hold(weights: Weights, inputs: Inputs | None, shape: tuple[int, int], packed: bool, said: str) -> None:
    assert said in str((V1 if packed else MINDIE).refusal(Outline("layer", weights, inputs, *shape)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body.pop("model.norm.weight"), "model.norm.weight is in the files, but not described"),
        (lambda body: body.update({"lm_head.bias": "FLOAT"}), "describes lm_head.bias"),
        (lambda body: body.update({"model.layers.1.mlp.up_proj.deq_scale": "W8A16"}), "up_proj.deq_scale is labelled W8A16"),
        (lambda body: body.update({"model.layers.0.self_attn.q_proj.weight": "W2A2"}), "q_proj is W2A2"),
        (lambda body: body.update({"lm_head.weight": "W8A16"}), "lm_head is W8A16, but has no weight_scale"),
    ],
)
def test_a_description_that_disagrees_is_named(change: object, said: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "w8a8", tmp_path / "量化 folder")
    file = folder / "quant_model_description_w8a8.json"
    body = json.loads(file.read_text())
    change(body)  # type: ignore[operator]
    file.write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match=said):
        open_quantized(folder)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "w8a16", tmp_path / "cut")
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_quantized(folder)
    with pytest.raises(CheckpointError, match="1 of 1 shards missing"):
        open_quantized(FIXTURES / "w8a8_named_sharded")
    with pytest.raises(CheckpointError, match="no folder of quantized weights"):
        open_quantized(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_each_rank_is_a_layer_of_its_own(packed: bool, dtype: str, tmp_path: Path) -> None:
    """As msModelSlim's generate_weight_of_tp_module writes them, the bias with the first."""
    inputs = Inputs("int", 8, "group", False, False, 32)
    layer = random_layer(Weights(strategy="group", group_size=32, ranks=4), inputs, 16, 128, bias=True, dtype=dtype)
    scale, zero = torch.tensor([0.02, 0.03, 0.01, 0.05]).to(layer.bias.dtype), torch.tensor([-5, 0, 7, -128], dtype=torch.int8)  # type: ignore[union-attr]
    layer = dataclasses.replace(layer, input_scale=scale, input_zero=zero)
    held = V1 if packed else MINDIE
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    held.write(folder_of([layer], tmp_path / "plain"), first)
    held.write(held.open(first), second)
    assert files_of(first) == files_of(second)
    body = json.loads(next(first.glob("quant_model_description*.json")).read_text())
    (file,) = first.glob("*.safetensors")
    found = load_file(file)
    assert body["model_quant_type"] == "W8A8" and "group_size" not in body
    assert {body[name] for name in found if layer.name in name} == {"W8A8"}
    assert torch.equal(found[f"{layer.name}.weight"], layer.codes) and f"{layer.name}.tp_list.1.bias" not in found
    for rank, codes in enumerate(layer.codes.chunk(4, 1)):
        own = {
            leaf: found[f"{layer.name}.tp_list.{rank}.{leaf}"]
            for leaf in ("weight", "input_scale", "input_offset", "quant_bias")
        }
        assert torch.equal(own["weight"], codes)
        assert torch.equal(own["input_scale"], scale[rank : rank + 1]) and float(own["input_offset"]) == float(zero[rank])
        assert layer.scale is not None and layer.bias is not None
        wide = torch.float32 if dtype == "float16" else scale.dtype
        deq = (scale[rank].to(wide) * layer.scale[:, rank].to(wide)).float()
        bias = (layer.bias.float() if rank == 0 else 0) / deq
        assert torch.equal(own["quant_bias"], (bias - codes.float().sum(1) * float(zero[rank])).round().to(torch.int32))
    back = next(held.open(first).read())
    assert back.outline == layer.outline and back.input_scale is not None and torch.equal(back.input_scale, scale)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 32)])
def test_weights_alone_are_dealt_too(bits: int, group: int | None, packed: bool, tmp_path: Path) -> None:
    """Every rank as a layer of its own would be written, and the whole weight what they are side by side."""
    weights = Weights(bits=bits, strategy="group", group_size=group or 64, symmetric=False, ranks=2)
    layer = random_layer(weights, None, 16, 128, bias=True, leaf="self_attn.o_proj")
    held = V1 if packed else MINDIE
    held.write(folder_of([layer], tmp_path / "plain"), tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    (description,) = tmp_path.glob("quant_model_description*.json")
    body, found = json.loads(description.read_text()), load_file(file)
    assert body["model_quant_type"] == f"W{bits}A16" and body.get("group_size", 0) == (group or 0 if packed else 0)
    for rank in range(2):
        own = slice(rank * 64, (rank + 1) * 64), slice(rank * 64 // (group or 64), (rank + 1) * 64 // (group or 64))
        assert layer.scale is not None and layer.zero is not None
        alone = dataclasses.replace(
            layer,
            weights=Weights(bits=bits, strategy="group" if group else "channel", group_size=group, symmetric=False),
            codes=layer.codes[:, own[0]],
            scale=layer.scale[:, own[1]],
            zero=layer.zero[:, own[1]],
            bias=layer.bias if rank == 0 else None,
        )
        for name, tensor in tensors_of(alone, packed=packed).items():
            assert torch.equal(found[name.replace("o_proj.", f"o_proj.tp_list.{rank}.")], tensor)
    parts = [found[f"{layer.name}.tp_list.{rank}.weight"] for rank in range(2)]
    assert torch.equal(found[f"{layer.name}.weight"], torch.cat(parts, 1))


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_scales_of_what_ranks_send_stand_before_the_weight(packed: bool, each: bool, tmp_path: Path) -> None:
    """One of every rank or one of all, by the names and in the order of ParallelLinearCol.get_quant_param."""
    layer = random_layer(Weights(strategy="group", group_size=32, ranks=16), None, 16, 512, leaf="self_attn.o_proj")
    parts = torch.rand(16 if each else 1, 16)
    layer = dataclasses.replace(layer, reduce_scale=parts, gather_scale=torch.rand(16))
    held = V1 if packed else MINDIE
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    held.write(folder_of([layer], tmp_path / "plain"), first)
    opened = held.open(first)
    held.write(opened, second)
    assert files_of(first) == files_of(second)
    body = json.loads(next(first.glob("quant_model_description*.json")).read_text())
    names = [name for name in body if name.startswith(layer.name)]
    sent = [f"{layer.name}.reduce_scale.{rank}" for rank in range(16)] if each else [f"{layer.name}.reduce_scale"]
    assert names[: len(sent) + 2] == [f"{layer.name}.gather_scale", *sent, f"{layer.name}.weight"]
    assert {body[name] for name in names} == {"W8A16"} and body.get("reduce_quant_type") == ("per_channel" if packed else None)
    back = next(opened.read())
    assert torch.equal(back.reduce_scale, parts) and torch.equal(back.gather_scale, layer.gather_scale)  # type: ignore[arg-type]
    said = json.loads((first / "config.json").read_text()).get("quantization_config", {})
    assert said.get("reduce_quant_type") == (None if packed else "per_channel")
