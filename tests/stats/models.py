"""Tiny models of every kind the statistics have to fit, and what they compute, kept whole in float64."""

from __future__ import annotations

from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

SIZES_GPT2: dict[str, Any] = {
    "vocab_size": 96, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def make(kind: str, **changes: Any) -> Any:
    """A random float32 model in evaluation mode."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = SIZES | changes
    if kind == "internvl":
        vision = hf.InternVLVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=[56, 56],
            patch_size=[14, 14],
        )
        text = hf.Qwen2Config(**sizes)
        config = hf.InternVLConfig(
            vision_config=vision, text_config=text, image_token_id=90, image_seq_length=4, downsample_ratio=0.5
        )
        return hf.InternVLForConditionalGeneration(config).eval()
    if kind == "glm":
        return hf.GlmForCausalLM(hf.GlmConfig(**sizes, head_dim=8, attention_bias=True)).eval()
    if kind == "mixtral":
        return hf.MixtralForCausalLM(hf.MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)).eval()
    if kind == "gpt-oss":
        config = hf.GptOssConfig(**sizes, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
        return hf.GptOssForCausalLM(config).eval()
    if kind == "phimoe":
        return hf.PhimoeForCausalLM(hf.PhimoeConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)).eval()
    if kind == "minimax":
        layers = ["linear_attention", "full_attention"]
        config = hf.MiniMaxConfig(**sizes, head_dim=8, num_local_experts=4, num_experts_per_tok=2, layer_types=layers)
        return hf.MiniMaxForCausalLM(config).eval()
    if kind == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(**SIZES_GPT2)).eval()
    if kind == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**sizes, head_dim=16)).eval()
    model_class, config_class = {
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig),
        "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config),
        "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config),
    }[kind]
    model = model_class(config_class(**sizes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def token_batches(lengths: tuple[int, ...] = (7, 1, 40, 33), seed: int = 0) -> list[dict[str, Any]]:
    """One sample a batch."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 89, (1, length), generator=generator) for length in lengths]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]


def padded(batches: list[dict[str, Any]], *, left: bool) -> dict[str, Any]:
    """The same samples as one batch, filled up with token 0."""
    width = max(batch["input_ids"].shape[1] for batch in batches)
    ids = torch.zeros(len(batches), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, batch in enumerate(batches):
        length = batch["input_ids"].shape[1]
        part = slice(width - length, width) if left else slice(0, length)
        ids[row, part], mask[row, part] = batch["input_ids"][0], 1
    return {"input_ids": ids, "attention_mask": mask}


class Recorder:
    """Keeps every activation, as no statistics pass may: (module, role) -> list of (sample, float64 rows)."""

    def __init__(self, model: Any) -> None:
        self.kept: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.sample = 0
        for name, module in model.named_modules():
            if type(module).__name__ in ("Linear", "Conv1D"):
                module.register_forward_hook(lambda _m, args, out, name=name: self._linear(name, args[0], out))
            elif "norm" in type(module).__name__.lower():
                module.register_forward_hook(lambda _m, _a, out, name=name: self.keep(name, "output", out))

    def _linear(self, name: str, x: Any, out: Any) -> None:
        self.keep(name, "input", x)
        self.keep(name, "output", out)

    def keep(self, name: str, role: str, x: Any) -> None:
        rows = x.detach().double().reshape(-1, x.shape[-1]).clone()
        self.kept.setdefault((name, role), []).append((self.sample, rows))

    def run(self, model: Any, batches: list[dict[str, Any]]) -> None:
        """Runs the samples with a real cache, and keeps what it holds as (tokens, heads * head_dim)."""
        for self.sample, batch in enumerate(batches):
            with torch.no_grad():
                cache = model(**batch, use_cache=True).past_key_values
            for number, layer in enumerate(cache.layers):
                for role, x in (("key", layer.keys), ("value", layer.values)):
                    self.keep(str(number), role, x[0].transpose(0, 1).reshape(x.shape[2], -1))

    def rows(self, name: str, role: str) -> Any:
        """All rows of a tensor, (rows, channels) float64."""
        return torch.cat([rows for _, rows in self.kept[name, role]])
