"""The parameters of msModelSlim: those of its scripts' command lines and of its Python classes, as data.

Sources: msModelSlim 26.1.0: example/{InternLM2/quant_internlm2,GLM/quant_glm,Qwen/quant_qwen,Llama/quant_llama,
multimodal_vlm/InternVL2/quant_internvl2}.py; msmodelslim/pytorch/llm_ptq/llm_ptq_tools/quant_config/quant_config.py and
calibrator; msmodelslim/pytorch/llm_ptq/anti_outlier/config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quantui.recipe.shell import Kind

JOB = "that is chosen when a job is started, not in a recipe"
DATA = "calibration data stand in a calibration file, not in a recipe"
TOKENIZER = "samples are made with the model's own chat template and tokenizer"
DEVICE = "the device is chosen when a job is started"
OUTPUT = "the format is chosen when a result is exported, not in a recipe"
CLOSED = "what it does stands in a closed part of msModelSlim"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        kind: how many values and of what kind.
        default: what it is when it is not given.
        because: why it is never carried over; empty when it says something about the recipe.
    """

    kind: Kind
    default: Any = None
    because: str = ""


QUANT_CONFIG: dict[str, Parameter] = {
    "w_bit": Parameter("int", 8),
    "a_bit": Parameter("int", 8),
    "act_method": Parameter("int", 1),
    "w_method": Parameter("str", "MinMax"),
    "disable_names": Parameter("list"),
    "pr": Parameter("float", 1.0),
    "mm_tensor": Parameter("bool", True),
    "dev_type": Parameter("str", "cpu", DEVICE),
    "dev_id": Parameter("int", None, DEVICE),
    "fraction": Parameter("float", 0.01),
    "nonuniform": Parameter("bool", False),
    "co_sparse": Parameter("bool", False),
    "w_sym": Parameter("bool", True),
    "is_lowbit": Parameter("bool", False),
    "do_smooth": Parameter("bool", False),
    "use_sigma": Parameter("bool", False),
    "sigma_factor": Parameter("float", 3.0),
    "disable_last_linear": Parameter("bool", True),
    "use_kvcache_quant": Parameter("bool", False),
    "open_outlier": Parameter("bool", True),
    "is_dynamic": Parameter("bool", False),
    "group_size": Parameter("int", 64),
    "percdamp": Parameter("float", 0.01),
    "pdmix": Parameter("bool", False),
    "w_hessian": Parameter("bool", False, "versions since 2024 have no such parameter"),
}
"""QuantConfig(...)."""

CHAINED: dict[str, dict[str, Parameter]] = {
    "weight_quant": {
        **{name: QUANT_CONFIG[name] for name in ("w_method", "mm_tensor", "w_sym", "group_size")},
        "block_size": Parameter("int", 64),
    },
    "weight_activation_quant": {name: QUANT_CONFIG[name] for name in ("act_method", "pr", "is_dynamic")},
    "sparse_quant": {
        name: QUANT_CONFIG[name]
        for name in ("act_method", "fraction", "nonuniform", "is_lowbit", "do_smooth", "use_sigma", "sigma_factor")
    },
    "kv_quant": {"kv_sym": Parameter("bool", True)},
    "fa_quant": {"fa_amp": Parameter("int", 0)},
    "simulate_tp": {
        "tp_size": Parameter("int", 1),
        "enable_communication_quant": Parameter("bool", True),
        "enable_per_device_quant": Parameter("bool", True),
    },
    "timestep_quant": {"max_dynamic_step": Parameter("int", None, "time steps are a matter of picture generators")},
}
"""The methods of QuantConfig, with their parameters in order."""

ANTI_OUTLIER: dict[str, Parameter] = {
    "w_bit": Parameter("int", 8),
    "a_bit": Parameter("int", 8),
    "anti_method": Parameter("str", "m2"),
    "dev_type": Parameter("str", "cpu", DEVICE),
    "dev_id": Parameter("int", None, DEVICE),
    "w_sym": Parameter("bool", True),
    "disable_anti_names": Parameter("list"),
    "flex_config": Parameter("str"),
}
"""AntiOutlierConfig(...), in its order."""

CALIBRATOR: dict[str, Parameter] = {
    "model": Parameter("str", None, JOB),
    "cfg": Parameter("str", None, "it is the QuantConfig, whose parameters are listed by themselves"),
    "calib_data": Parameter("str", None, DATA),
    "disable_level": Parameter("str", "L0"),
    "all_tensors": Parameter("str", None, "it holds tensors that an earlier run kept"),
    "mix_cfg": Parameter("str"),
}
"""Calibrator(...), in its order."""

SAVE: dict[str, Parameter] = {
    name: Parameter("str", None, OUTPUT) for name in ("output_path", "safetensors_name", "json_name", "save_type")
} | {"part_file_size": Parameter("int", None, JOB)}
"""Calibrator.save(...), in its order."""

_SHARED: dict[str, Parameter] = {
    "model_path": Parameter("str", None, JOB),
    "save_directory": Parameter("str", None, JOB),
    "part_file_size": Parameter("int", None, JOB),
    "device_type": Parameter("str", "cpu", DEVICE),
    "trust_remote_code": Parameter("bool", False, "whether code of a model folder may run is decided when a job is started"),
    "mindie_format": Parameter("switch", False, OUTPUT),
    "w_bit": QUANT_CONFIG["w_bit"],
    "a_bit": QUANT_CONFIG["a_bit"],
    "act_method": QUANT_CONFIG["act_method"],
}
TEXT_SCRIPT: dict[str, Parameter] = {
    **_SHARED,
    "calib_texts": Parameter("list", None, DATA),
    "calib_file": Parameter("str", None, DATA),
    "anti_file": Parameter("str", None, DATA),
    "anti_calib_file": Parameter("str", None, DATA),
    **{
        name: QUANT_CONFIG[name]
        for name in (
            "disable_names", "fraction", "co_sparse", "do_smooth", "use_sigma", "sigma_factor", "is_lowbit", "w_sym",
            "use_kvcache_quant", "open_outlier", "group_size", "is_dynamic", "disable_last_linear", "pdmix", "w_method",
            "pr", "percdamp", "nonuniform",
        )
    },
    "anti_method": Parameter("str", ""),
    "disable_level": CALIBRATOR["disable_level"],
    "disable_threshold": Parameter("float", 0.0),
    "use_reduce_quant": Parameter("bool", False),
    "tp_size": Parameter("int", 1),
    "mm_tensor": Parameter("bool", True, "the scripts quantize by channel whatever it is set to (mm_tensor=False)"),
    "use_fa_quant": Parameter("bool", False),
    "fa_amp": Parameter("int", 0),
    "input_ids_name": Parameter("str", "input_ids", TOKENIZER),
    "attention_mask_name": Parameter("str", "attention_mask", TOKENIZER),
    "tokenizer_args": Parameter("str", None, TOKENIZER),
    "model_name": Parameter("str", None, "it chooses how norms are found, which is read off the model here"),
    "model_type": Parameter("str"),
    "layer_count": Parameter("int", 0, "the whole model is quantized here"),
}  # fmt: skip
"""What the scripts for text models take; not all take all."""

PICTURE_SCRIPT: dict[str, Parameter] = {
    **_SHARED,
    "calib_images": Parameter("str", None, DATA),
    "calib_num": Parameter("int", 30, DATA),
    "is_8B_model": Parameter("switch", False),
}
"""What quant_internvl2.py takes."""

_DOWN = r"re:.*\.mlp\.down_proj$"
_PROJECTOR, _TOWER, _HEAD = "re:.*multi_modal_projector.*", "re:.*vision_tower.*", "re:.*lm_head"
_FIRST_FIVE = tuple(
    rf"re:.*layers\.[0-4]\.{name}$"
    for name in (r"self_attn\.[qkvo]_proj", r"mlp\.(gate|up)_proj")
)  # fmt: skip


@dataclass(frozen=True)
class Script:
    """What one of its scripts does by itself.

    Attributes:
        parameters: those it takes.
        when: a_bit of the runs for which it fills in disable_names by itself.
        disabled: what it leaves in float then, as ignore entries of the native model.
        by_type: the same by --model_type.
        whose: the layers it means, in words.
        fixed: parameters that it sets itself.
        model_type: default of --model_type.
    """

    parameters: dict[str, Parameter] = field(default_factory=lambda: TEXT_SCRIPT)
    when: tuple[int, ...] = (8,)
    disabled: tuple[str, ...] = (_DOWN,)
    by_type: dict[str, tuple[str, ...]] = field(default_factory=dict)
    whose: str = "every mlp.down_proj"
    fixed: dict[str, Any] = field(default_factory=lambda: {"mm_tensor": False})
    model_type: str = ""


_CHATGLM = Script(whose="every mlp.dense_4h_to_h, here mlp.down_proj")
SCRIPTS: dict[str, Script] = {
    "quant_internlm2.py": Script(whose="every feed_forward.w2, here mlp.down_proj"),
    "quant_glm.py": _CHATGLM,
    "quant_chatglm2.py": _CHATGLM,
    "quant_chatglm2_6b_w8a8.py": _CHATGLM,
    "quant_qwen.py": Script(when=(8, 16), disabled=(_DOWN, _HEAD), model_type="qwen2"),
    "quant_llama.py": Script(
        by_type={
            "llama3": (*_FIRST_FIVE, r"re:.*layers\.[0-4]\.mlp\.down_proj$", _HEAD),
            "llama3.1_fp": (_DOWN, *_FIRST_FIVE, _HEAD),
            "llama3.1_instruct": (_DOWN, *_FIRST_FIVE, _HEAD),
        },
        model_type="llama2",
    ),
    "quant_internvl2.py": Script(
        parameters=PICTURE_SCRIPT,
        when=(8, 16),
        disabled=(_DOWN, _TOWER, _PROJECTOR, _HEAD),
        by_type={"8B": (_DOWN, r"re:.*vision_tower.*\.mlp\.fc2$", _PROJECTOR, _HEAD)},
        whose="the projector, the language model's output and every down projection, and of the vision tower all of it "
        "(with --is_8B_model every mlp.fc2)",
        fixed={"mm_tensor": False, "anti_method": "m2"},
    ),
}
"""The scripts whose own defaults are known; any other quant_*.py is read with the parameters of text scripts."""

ANY_SCRIPT = Script(when=(), fixed={})
