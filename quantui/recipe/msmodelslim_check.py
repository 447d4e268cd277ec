"""What msModelSlim refuses, and what it passes over in silence though it cannot work: refused here with what works.

Source: msModelSlim 26.1.0, quant_config/quant_config.py and quant_config_classes/config_utils.py, anti_outlier/config.py,
and runs of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from quantui.recipe.settings import Settings

BITS = ((8, 8), (8, 16), (4, 16), (4, 8), (4, 4), (16, 16))
"""Pairs of weight and activation bits that it has a scheme for."""
W_METHODS = ("MinMax", "GPTQ", "HQQ", "NF")
ANTI_METHODS = ("m1", "m2", "m3", "m4", "m5", "m6")
GROUP_SIZES = (32, 64, 128, 256)
MIXED = ("w8a8", "w8a16", "w8a8_dynamic", "float", "w4a8_dynamic")


def is_per_group(s: Settings) -> bool:
    """Whether weights are quantized by group."""
    w, a = s["w_bit"], s["a_bit"]
    return bool(s["is_lowbit"] and not s["open_outlier"] and (a == 16 or (w == 4 and a == 8)))


def is_sparse(s: Settings) -> bool:
    """Whether weights are quantized to W8A8S: 4 bits with outliers at 8."""
    return bool(s["co_sparse"] or (s["is_lowbit"] and s["w_bit"] == 4 and s["a_bit"] == 8 and not is_per_group(s)))


def check(s: Settings) -> None:
    """Refuses values that cannot work.

    Raises:
        RecipeError: one of them cannot, with the place and the nearest that can.
    """
    _check_sparse(s)
    for rule in (_check_ranges, _check_bits, _check_method, _check_modes, _check_outliers, _check_level):
        rule(s)


def _check_ranges(s: Settings) -> None:
    rules: list[tuple[str, Callable[..., bool], str, str]] = [
        ("act_method", lambda v: v in (1, 2, 3), "1 (min-max), 2 (histogram) or 3 (auto)", "1"),
        ("w_method", lambda v: v in W_METHODS, f"one of {', '.join(W_METHODS)} (AWQ is anti_method m3)", "MinMax"),
        ("fraction", lambda v: 0.01 <= v <= 0.1, "a share from 0.01 to 0.1", "0.01"),
        ("sigma_factor", lambda v: 3 <= v <= 4, "from 3.0 to 4.0, whatever the scripts' READMEs say", "3.0"),
        ("percdamp", lambda v: 0 < v <= 1, "above 0 and at most 1", "0.01"),
        ("pr", lambda v: 0 <= v <= 1, "a probability from 0 to 1", "1.0"),
        ("group_size", lambda v: v in GROUP_SIZES, f"one of {', '.join(map(str, GROUP_SIZES))}", "64"),
        ("tp_size", lambda v: v in (1, 2, 4, 8, 16), "1, 2, 4, 8 or 16", "1"),
        ("fa_amp", lambda v: v >= 0, "a number of layers from 0 up", "0"),
        ("dev_type", lambda v: v in ("cpu", "npu", "gpu"), "cpu, npu or gpu", "cpu"),
        ("device_type", lambda v: v in ("cpu", "npu", "gpu"), "cpu or npu", "cpu"),
    ]
    for name, works, wanted, instead in rules:
        if s.wrote(name) and s[name] is not None and isinstance(s[name], int | float | str) and not works(s[name]):
            raise s.refuse(f"{name} is {s.given[name].shown}, but must be {wanted}", name, f"use {name} {instead}")


def _check_sparse(s: Settings) -> None:
    """co_sparse quantizes W4A8 whatever bits say; msModelSlim rewrites them with a warning."""
    if s["co_sparse"] and s["is_lowbit"]:
        raise s.refuse("co_sparse and is_lowbit are two ways to make sparse weights", "co_sparse", "keep is_lowbit")
    if not s["co_sparse"]:
        return
    for name, bits in (("w_bit", 4), ("a_bit", 8)):
        if s.wrote(name) and s[name] != bits:
            what = f"co_sparse quantizes to w_bit 4 and a_bit 8, not {name} {s[name]}"
            raise s.refuse(what, name, f"use {name} {bits}, or leave co_sparse out")
        s.defaults[name] = bits
    if s["is_dynamic"]:
        raise s.refuse("co_sparse has static activations, is_dynamic dynamic ones", "is_dynamic", "keep one of them")


def _check_bits(s: Settings) -> None:
    w, a, dynamic = s["w_bit"], s["a_bit"], s["is_dynamic"]
    name = "a_bit" if s.wrote("a_bit") and w in (4, 8, 16) else "w_bit"
    if (w, a) not in BITS:
        near = min(BITS, key=lambda pair: abs(pair[0] - w) + abs(pair[1] - a) / 2)
        what = f"there is no scheme of w_bit {w} and a_bit {a}: msModelSlim would write a checkpoint of type UNKNOWN"
        raise s.refuse(what, name, f"the nearest is w_bit {near[0]} with a_bit {near[1]}")
    if (w, a) == (4, 8) and not is_sparse(s) and not (dynamic and is_per_group(s)):
        what = "w_bit 4 with a_bit 8 is either sparse, or dynamic with weights by group"
        todo = "set is_lowbit True for sparse weights; with is_dynamic True and open_outlier False besides, for groups"
        raise s.refuse(what, name, todo)
    if (w, a) == (4, 4) and not (dynamic and s["w_method"] == "MinMax" and s["w_sym"] and s["disable_last_linear"]):
        what = "w_bit 4 with a_bit 4 works only with is_dynamic True, w_method MinMax, w_sym True and disable_last_linear True"
        raise s.refuse(what, name, "set these, or use a_bit 8")
    if dynamic and 16 in (w, a):
        raise s.refuse("is_dynamic quantizes activations, which stay in float here", "is_dynamic", "use a_bit 8")
    if not s["w_sym"] and a != 16:
        what = f"asymmetric weights do not go with {a}-bit activations: the product needs a correction no kernel makes"
        raise s.refuse(what, "w_sym", "use w_sym True, or a_bit 16")


def _check_method(s: Settings) -> None:
    method, a = s["w_method"], s["a_bit"]
    if method == "NF" and ((s["w_bit"], a) != (4, 16) or s["is_lowbit"] or s["use_kvcache_quant"] or s["use_fa_quant"]):
        what = "w_method NF is for w_bit 4 and a_bit 16, without is_lowbit and without quantized keys and values"
        raise s.refuse(what, "w_method", "use w_bit 4 with a_bit 16, or another w_method")
    if method not in ("GPTQ", "HQQ"):
        return
    if is_sparse(s) or (a == 8 and not s["is_dynamic"]):
        raise s.refuse(f"{method} does not go with static activations there", "w_method", "use w_method MinMax, or a_bit 16")
    if s["is_lowbit"] and not is_per_group(s):
        raise s.refuse(f"{method} with is_lowbit needs groups", "w_method", "set open_outlier False, or is_lowbit False")


def _check_modes(s: Settings) -> None:
    if s["is_lowbit"] and s["act_method"] == 3:
        raise s.refuse("act_method 3 does not go with is_lowbit", "act_method", "use act_method 1 or 2")
    if s["use_kvcache_quant"] and s["use_fa_quant"]:
        what = "use_kvcache_quant and use_fa_quant both quantize keys and values"
        raise s.refuse(what, "use_fa_quant", "keep use_kvcache_quant")
    if s["pdmix"] and ((s["w_bit"], s["a_bit"]) != (8, 8) or s["is_dynamic"]):
        raise s.refuse("pdmix is for static W8A8", "pdmix", "use w_bit 8, a_bit 8 and is_dynamic False")
    mixed = s["mix_cfg"]
    if mixed is not None and not isinstance(mixed, dict):
        raise s.refuse("mix_cfg must be a dictionary of pattern and type", "mix_cfg", "write it as {'*.mlp.*': 'w8a8'}")
    for pattern, kind in (mixed or {}).items():
        if kind not in MIXED:
            what = f"mix_cfg gives {pattern!r} the type {kind!r}"
            raise s.refuse(what, "mix_cfg", f"use one of {', '.join(MIXED)}")


def _check_outliers(s: Settings) -> None:
    method = s["anti_method"]
    if not method:
        return
    if method not in ANTI_METHODS:
        todo = f"use one of {', '.join(ANTI_METHODS)}, or leave it out"
        raise s.refuse(f"there is no anti_method {method!r}", "anti_method", todo)
    for name, plain in (("AntiOutlierConfig.w_bit", (4, 8)), ("AntiOutlierConfig.a_bit", (8, 16))):
        if s.wrote(name) and s[name] not in plain:
            raise s.refuse(f"{name} is {s[name]}", name, f"use {' or '.join(map(str, plain))}")
    if s["AntiOutlierConfig.a_bit"] == 16 and method != "m3":
        raise s.refuse(f"{method} is for quantized activations", "AntiOutlierConfig.a_bit", "use a_bit 8, or anti_method m3")
    if s["AntiOutlierConfig.w_sym"] is False and method != "m3":
        raise s.refuse(f"{method} is for symmetric weights", "AntiOutlierConfig.w_sym", "use w_sym True, or anti_method m3")
    flex = s["flex_config"]
    if flex is None:
        return
    if not isinstance(flex, dict) or set(flex) - {"alpha", "beta"}:
        raise s.refuse("flex_config holds alpha and beta and nothing else", "flex_config", "write {'alpha': 0.6, 'beta': 0.3}")
    for key, value in flex.items():
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise s.refuse(f"{key} is {value!r}, but must be from 0 to 1", "flex_config", f"use {key} 0.5")


def _check_level(s: Settings) -> None:
    level = s["disable_level"]
    if level is not None and not re.fullmatch(r"L(0|[1-9]\d{0,4})", str(level)):
        raise s.refuse(f"disable_level is {level!r}", "disable_level", "write L and a number of layers, as L0 or L5")
