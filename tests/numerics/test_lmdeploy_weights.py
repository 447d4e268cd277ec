"""AWQ as lmdeploy makes it: codes byte for byte, and the scales of input channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "lmdeploy"
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column each nibble of a word holds."""


def tensors(file: str) -> dict[str, Any]:
    """All tensors of a fixture."""
    from safetensors.torch import load_file

    return dict(load_file(FIXTURES / file))


def unpacked(words: Any) -> Any:
    """int32 (rows, columns / 8) as codes (rows, columns)."""
    import torch

    made = torch.empty(words.shape[0], words.shape[1], 8, dtype=torch.int64)
    for nibble, column in enumerate(ORDER):
        made[:, :, column] = (words >> (4 * nibble)) & 0xF
    return made.flatten(1)


def test_rounding_to_nearest() -> None:
    """Every group whose range holds 0; which are all of them here."""
    import torch

    from quantui.numerics.lmdeploy import group_scale

    expected, original = tensors("gqa-awq_rtn/model.safetensors"), tensors("model-gqa/model.safetensors")
    names = [name.removesuffix(".qweight") for name in expected if name.endswith(".qweight")]
    assert len(names) == 14
    odd = []
    for name in names:
        view = original[f"{name}.weight"].unflatten(1, (-1, 128))
        low, high = view.amin(-1), view.amax(-1)
        odd += [name] * int(((low > 0) | (high < 0)).sum())
        scale, zero = group_scale(low, high)
        codes = ((view / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)).clamp(0, 15).flatten(1)
        assert torch.equal(scale.T.contiguous().view(torch.int16), expected[f"{name}.scales"].view(torch.int16))
        assert torch.equal(zero.T.long(), unpacked(expected[f"{name}.qzeros"]))
        assert torch.equal(codes.T.long(), unpacked(expected[f"{name}.qweight"]))
    assert odd == []


def test_scales_of_input_channels() -> None:
    """What norms were divided by, from the activations that lmdeploy saw in the same model."""
    import torch

    from quantui.numerics.lmdeploy import channel_scale

    smoothed, original = tensors("gqa-awq/model.safetensors"), tensors("model-gqa/model.safetensors")
    seen = tensors("stats-gqa-v0.1.0.safetensors")
    for layer in ("model.layers.0", "model.layers.1"):
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            weights = torch.cat([original[f"{layer}.{reader}.weight"] for reader in readers]).float()
            found = channel_scale(seen[f"inputs/absmax/{layer}.{readers[0]}"].float(), weights, 128)
            before, after = (side[f"{layer}.{norm}.weight"].float() for side in (original, smoothed))
            torch.testing.assert_close(found, before / after, rtol=1e-2, atol=0)
