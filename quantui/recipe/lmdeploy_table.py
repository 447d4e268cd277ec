"""The parameters of `lmdeploy lite`, as data: all versions' together, by their names with underscores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantui.recipe.shell import Kind

JOB = "that is chosen when a job is started, not in a recipe"
DATA = "calibration data stand in a calibration file, not in a recipe"
MEMORY = "how many samples go at once follows from the memory there is"
DATASETS = "c4 (to 0.1.0), ptb (0.2.0 to 0.11.1) or wikitext2 (since)"
TURBOMIND = "scale files for TurboMind are an export, not part of a recipe"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        kind: how many values and of what kind; a switch of today took True or False before 0.2.0.
        default: what it is when it is not given.
        because: why it is never carried over; empty when it says something about the recipe.
        positional: it may also stand without its name, in the order of the table.
        choices: the values it takes, where they are few.
    """

    kind: Kind = "str"
    default: Any = None
    because: str = ""
    positional: bool = False
    choices: tuple[str, ...] = ()


_CALIBRATION: dict[str, Parameter] = {
    "model": Parameter(because=JOB, positional=True),
    "revision": Parameter(because=JOB),
    "download_dir": Parameter(because=JOB),
    "work_dir": Parameter(default="./work_dir", because=JOB),
    "calib_dataset": Parameter(because=DATA),
    "calib_samples": Parameter("int", 128, DATA),
    "calib_seqlen": Parameter("int", 2048, DATA),
    "calib_image": Parameter(because=DATA),
    "batch_size": Parameter("int", 1, MEMORY),
    "device": Parameter(because="the device is chosen when a job is started"),
    "dtype": Parameter(default="auto", because="the model is read in the dtype it is stored in"),
    "trust_remote_code": Parameter("switch", False, "whether code of a model folder may run is decided when a job is started"),
}
_SEARCH = {"search_scale": Parameter("bool", False)}
_WEIGHTS = {"w_bits": Parameter("int", 4), "w_group_size": Parameter("int", 128)}

COMMANDS: dict[str, dict[str, Parameter]] = {
    "calibrate": {**_CALIBRATION, "search_scale": Parameter("bool", False, "calibrate only measures")},
    "kv_qparams": {
        "work_dir": Parameter(because=JOB, positional=True),
        "turbomind_dir": Parameter(because=TURBOMIND, positional=True),
        "kv_bits": Parameter("int", 8),
        "kv_sym": Parameter("switch", False),
        "num_tp": Parameter("int", 1, TURBOMIND),
        "tp": Parameter("int", 1, TURBOMIND),
    },
    "auto_awq": {**_CALIBRATION, **_WEIGHTS, **_SEARCH, "w_sym": Parameter("switch", False)},
    "auto_gptq": {**_CALIBRATION, **_WEIGHTS},
    "smooth_quant": {
        **_CALIBRATION,
        **_SEARCH,
        "quant_dtype": Parameter(default="int8", choices=("int8", "fp8", "float8_e4m3fn", "float8_e5m2")),
    },
}
"""Every command with its parameters, the positional ones first."""

ELSEWHERE = {
    "get_small_sharded_hf": "that command only cuts a checkpoint into shards; start a conversion for it",
    "blocked_fp8": "it is the scheme FP8_BLOCK here: QuantizationModifier: {scheme: FP8_BLOCK, ignore: [lm_head]}",
}
"""Commands that stand for no recipe of their own, and what to do instead."""
