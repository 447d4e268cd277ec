"""Tables of scores made of numbers, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantui.checkpoint.inspect import Linear
from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe
from quantui.recipe.words import FLOAT
from quantui.sensitivity.candidates import candidates, scope_hash, stored_bytes
from quantui.sensitivity.scores import Row, Scores, Sizes
from quantui.sensitivity.sharing import grouped
from quantui.workspace import RECIPES

RECIPE = RECIPES / "int8-w8a8-static.yaml"
KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def linears(blocks: int, width: int = 256) -> list[Linear]:
    """The layers of a Llama."""
    return [Linear(f"model.layers.{block}.{kind}", width, width, "BF16") for block in range(blocks) for kind in KINDS]


def scores_of(layers: Sequence[Linear], recipe: Recipe | None = None, seed: int = 0, **meta: Any) -> Scores:
    """Scores with a made-up KL for every layer and scheme: the more bits, the less."""
    recipe = recipe or llmcompressor.load(RECIPE)
    known = candidates(recipe)
    random = np.random.default_rng(seed)
    group_of = {name: group for group, names in grouped(one.name for one in layers).items() for name in names}
    rows, products = [], []
    tokens = [10, 20, 30]
    for layer in layers:
        loud = random.lognormal(-6, 2)
        for scale, candidate in zip((1.0, 0.01, 0.3), known, strict=True):
            drawn = random.normal(size=(len(tokens), 4)) * np.sqrt(2 * loud * scale * np.array(tokens))[:, None]
            products.append(drawn)
            kl = float(np.square(drawn).mean(1).sum() / 2 / sum(tokens))
            rows.append(Row(layer.name, group_of[layer.name], candidate.name, kl, kl / 5, stored_bytes(layer, candidate)))
        rows.append(Row(layer.name, group_of[layer.name], FLOAT, 0.0, 0.0, stored_bytes(layer, None)))
    weights = sum(layer.parameters for layer in layers)
    body = {
        "model": "/models/made", "model_hash": "m", "calibration_hash": "c", "recipe": str(RECIPE), "notes": [],
        "recipe_hash": scope_hash(recipe, known), "samples": len(tokens), "tokens": sum(tokens), "sample_tokens": tokens,
        "sample_numbers": [2, 0, 1], "sample_wheres": ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"], "noise_floor": 1e-5, "draws": 4,
        "inputs": {layer.name: {"top": [[3, 40.0], [1, 2.0]], "median": 1.0, "channels": 8} for layer in layers},
    }  # fmt: skip
    samples = {"text": np.stack(products, -1).astype(np.float32)}
    return Scores("fisher", tuple(rows), known, Sizes(1000, 0, weights), body | meta, samples)


def saved(folder: Path, scores: Scores) -> Path:
    """The table on disk."""
    folder.mkdir(parents=True)
    scores.save(folder)
    return folder
