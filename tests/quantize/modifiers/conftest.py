"""Tiny float32 models of every family that outliers are suppressed in."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = ("llama", "llama with biases", "qwen2", "qwen3", "glm", "glm4", "mistral", "internvl")


def make(family: str) -> Any:
    """A random model with uneven channels, biases that are not 0, and norms that are not 1."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    sizes = dict(SIZES)
    if family in ("qwen3", "glm", "glm4", "mistral"):
        sizes["head_dim"] = 8
    if family.startswith("llama"):
        biases = "biases" in family
        model: Any = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, attention_bias=biases, mlp_bias=biases))
    elif family == "internvl":
        tower: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
        vision = hf.InternVLVisionConfig(**tower, image_size=[28, 28], patch_size=[14, 14])
        text = hf.Qwen2Config(**sizes)
        config = hf.InternVLConfig(vision_config=vision, text_config=text, image_token_id=5, image_seq_length=1)
        model = hf.InternVLForConditionalGeneration(config)
    else:
        name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "glm": "Glm", "glm4": "Glm4", "mistral": "Mistral"}[family]
        model = getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**sizes))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if key.endswith("layernorm.weight"):
                parameter[3] *= 10  # an outlier channel
    return model.eval()
