"""Modifiers of the engine that are passed on as they are: rotations, equalization and pruning, their fields checked here.

Source: llm-compressor 0.14.0.1, modifiers/transform/{spinquant,quip}/base.py, modifiers/logarithmic_equalization/base.py,
modifiers/pruning/*/base.py; a test compares the names.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, create_model, field_validator, model_validator

from quantui.recipe.args import Frozen
from quantui.recipe.methods import Count, Share

Names = str | list[str]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["torch.float64", "torch.float32", "torch.bfloat16", "torch.float16"]
Rotation = Literal["hadamard", "random-hadamard", "random-matrix"]
MaskStructure = Annotated[str, Field(pattern=r"^\d+:\d+$")]
REQUIRED: Any = ...

_ROTATING: dict[str, Any] = {
    "randomize": (Literal[False], False),
    "learnable": (Literal[False], False),
    "precision": (Precision, "torch.float64"),
    "transform_block_size": (Count | None, None),
    "transform_config": (dict[str, Any] | None, None),
}
_PRUNING: dict[str, Any] = {
    "sparsity": (Sparsity | list[Sparsity] | None, REQUIRED),
    "sparsity_profile": (Literal["owl"] | None, None),
    "mask_structure": (MaskStructure, "0:0"),
    "owl_m": (Count | None, None),
    "owl_lmbda": (float | None, None),
    "sequential_update": (bool | None, False),
    "targets": (Names, ["Linear"]),
    "ignore": (Names, []),
}
_TIMES: dict[str, Any] = {"start": (float | None, None), "end": (float | None, None), "update": (float | None, None)}
_FIELDS: dict[str, dict[str, Any]] = {
    "SpinQuantModifier": {
        "rotations": (Annotated[list[Literal["R1", "R2", "R3", "R4"]], Field(min_length=1)], ["R1", "R2"]),
        "transform_type": (Rotation, "hadamard"),
        **_ROTATING,
        "mappings": (dict[str, Any] | None, None),
        "norm_mappings": (list[dict[str, Any]] | None, None),
    },
    "QuIPModifier": {
        "rotations": (Annotated[list[Literal["v", "u"]], Field(min_length=1)], ["v"]),
        "transform_type": (Rotation, "random-hadamard"),
        **_ROTATING,
        "targets": (Names, "Linear"),
        "ignore": (Names, "lm_head"),
    },
    "LogarithmicEqualizationModifier": {
        "smoothing_strength": (Share, 0.5),
        "mappings": (list[Annotated[list[Names], Field(min_length=2, max_length=2)]] | None, None),
        "ignore": (list[str] | None, None),
        "num_calibration_steps": (Count | None, None),
        "algorithm": (Literal["smoothquant", "log_equalization"], "smoothquant"),
    },
    "SparseGPTModifier": {
        **_PRUNING,
        "block_size": (Count, 128),
        "dampening_frac": (Annotated[float, Field(gt=0)] | None, 0.01),
        "preserve_sparsity_mask": (bool, False),
        "offload_hessians": (bool, False),
    },
    "WandaPruningModifier": _PRUNING,
    "MagnitudePruningModifier": {
        "targets": (Names, REQUIRED),
        "init_sparsity": (Sparsity, REQUIRED),
        "final_sparsity": (Sparsity, REQUIRED),
        "update_scheduler": (str, "cubic"),
        "scheduler_args": (dict[str, Any], {}),
        "mask_structure": (str, "unstructured"),
        "leave_enabled": (bool, False),
        "apply_globally": (bool, False),
        **_TIMES,
    },
    "ConstantPruningModifier": {"targets": (Names, REQUIRED), **_TIMES},
    "REAPPruningModifier": {
        "sparsity": (Sparsity, REQUIRED),
        "ignore": (Names, []),
        "report_path": (str | None, None),
    },
}
RARE: MappingProxyType[str, type[BaseModel]] = MappingProxyType(
    {name: create_model(name, __base__=Frozen, **fields) for name, fields in _FIELDS.items()}
)
"""Every such modifier, with a model of its settings."""

WITHOUT_DATA = frozenset({"SpinQuantModifier", "QuIPModifier", "ConstantPruningModifier", "MagnitudePruningModifier"})
"""Those that look at no samples."""

ROTATIONS = ("SpinQuantModifier", "QuIPModifier")
PRUNING = tuple(name for name in _FIELDS if name.startswith("Sparse") or "Pruning" in name)


def spelled_as_here(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with rotations in the letters that the engine turns them into."""
    rotations = settings.get("rotations")
    if not isinstance(rotations, list):
        return settings
    small = name == "QuIPModifier"
    return settings | {"rotations": [(r.lower() if small else r.upper()) if isinstance(r, str) else r for r in rotations]}


class EngineModifier(Frozen):
    """A modifier of the engine by name, with the settings that are given for it; the others have the engine's defaults."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_one_of_them(cls, value: str) -> str:
        if value not in RARE:
            raise ValueError(f"unknown modifier {value[:100]!r}; valid are {', '.join(RARE)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _with_checked_settings(cls, data: Any) -> Any:
        name = data.get("name") if isinstance(data, dict) else None
        if name not in RARE:
            return data
        try:
            checked = RARE[str(name)].model_validate(spelled_as_here(str(name), data.get("settings") or {}))
        except ValidationError as error:
            raise ValueError("; ".join(_told(problem) for problem in error.errors())) from error
        return {**data, "settings": checked.model_dump(mode="json", exclude_unset=True)}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        owl = [self.settings.get(key) is not None for key in ("sparsity_profile", "owl_m", "owl_lmbda")]
        if any(owl) and not all(owl):
            raise ValueError("sparsity_profile: owl needs owl_m and owl_lmbda beside it, and they need it")
        return self

    @property
    def is_online(self) -> bool:
        """Whether it leaves a rotation to be done at run time, which transformers does not do when it loads the result."""
        rotations = self.settings.get("rotations", ["v"] if self.name == "QuIPModifier" else ["R1", "R2"])
        return (self.name == "SpinQuantModifier" and bool({"R3", "R4"} & set(rotations))) or self.name == "QuIPModifier"


def _told(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}"
