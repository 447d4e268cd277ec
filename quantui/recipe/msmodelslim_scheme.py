"""msModelSlim's settings as a recipe, with what became of each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from quantui.recipe.args import LEVELS_OBSERVER
from quantui.recipe.imported import refuse
from quantui.recipe.msmodelslim_check import check, is_per_group, is_sparse
from quantui.recipe.original_names import entries, is_glob, native_names, pattern_of
from quantui.recipe.schema import (
    Awq,
    Fallback,
    Gptq,
    Hqq,
    OutlierSuppression,
    QuantArgs,
    QuantGroup,
    Recipe,
    Sparse,
)
from quantui.recipe.settings import Settings
from quantui.recipe.shards import SENDERS, dealt

OBSERVER = {1: "msmodelslim", 2: "histogram", 3: "auto"}
EXACT = "msmodelslim"
HEAD = "re:.*lm_head"
PROJECTOR_END = "model.multi_modal_projector.linear_2"
PICTURES = ("vision_model.", "mlp1.", "language_model.")
"""How layers of InternVL are named."""


def recipe_of(s: Settings, disabled: tuple[str, ...] = ()) -> Recipe:
    """The recipe; the report in `s` gets a line for every parameter that was written.

    Args:
        s: the settings.
        disabled: entries that stay in float by a script's own default.

    Raises:
        RecipeError: the settings cannot work.
    """
    check(s)
    fields: dict[str, Any] = {"groups": _groups(s), "ignore": _ignored(s, disabled)}
    fields |= _rounding(s) | _sparse(s) | _outliers(s) | _cache(s)
    groups, floats = _mixed(s)
    fields["groups"] = (*_dealt(s, fields["groups"]), *groups)
    fields["ignore"] = tuple(dict.fromkeys((*fields["ignore"], *floats)))
    level = int(str(s["disable_level"] or "L0")[1:])
    if level:
        fields["fallback"] = Fallback(level=level)
    s.carry("disable_level", f"fallback: the {level} most sensitive layers stay in float" if level else "no fallback: L0")
    _leave_rest(s)
    try:
        made = Recipe(**fields)
    except ValidationError as error:
        what = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise refuse(what, 1, 1, "correct the parameters") from None
    if not made.quantizes:
        what = f"w_bit {s['w_bit']} and a_bit {s['a_bit']} leave everything in float"
        raise s.refuse(what, "w_bit", "use w_bit 8 or 4, or use_kvcache_quant True")
    return made


def _weights(s: Settings) -> QuantArgs | None:
    bits = s["w_bit"]
    if bits == 16:
        s.carry("w_bit", "weights stay in float")
        return None
    if s["w_method"] == "NF":
        size = s["block_size"] or 64
        s.carry(("w_bit", "w_method", "block_size"), f"weights: the levels of NF4, by groups of {size}")
        s.leave(("mm_tensor", "w_sym"), "NF4 goes by blocks and has levels of its own")
        return QuantArgs(num_bits=4, strategy="group", group_size=size, observer=LEVELS_OBSERVER)
    symmetric = bool(s["w_sym"]) and s["w_method"] != "HQQ"
    if s["w_method"] == "HQQ" and s["w_sym"]:
        s.report.note("HQQ works on zero points, so its weights are asymmetric here")
    if is_per_group(s):
        args = QuantArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=s["group_size"], **_exactly(s))
        s.carry(("group_size", "is_lowbit", "open_outlier"), f"weights: groups of {s['group_size']}")
        s.carry("mm_tensor", "weights: by group, which is_lowbit with open_outlier False asks for")
    else:
        shared: Literal["tensor", "channel"] = "tensor" if s["mm_tensor"] else "channel"
        args = QuantArgs(num_bits=bits, symmetric=symmetric, strategy=shared, **_exactly(s))
        s.carry("mm_tensor", f"weights: one scale a {args.strategy}")
        if s["mm_tensor"] and not s.wrote("mm_tensor"):
            s.report.note("mm_tensor is True by default in QuantConfig: one scale for a whole weight, not one a channel")
    s.carry("w_bit", f"weights: int{bits}")
    s.carry("w_sym", f"weights: {'symmetric' if symmetric else 'asymmetric'}")
    return args


def _exactly(s: Settings) -> dict[str, Any]:
    """What makes weights round as they do there; sparse ones and HQQ's have scales of their own."""
    if is_sparse(s) or s["w_method"] == "HQQ":
        return {}
    two_stage = s["w_bit"] == 4 and s["a_bit"] == 8 and s["w_method"] == "MinMax"
    return {"observer": EXACT, "observer_kwargs": {"stages": 2} if two_stage else {}}


def _activations(s: Settings) -> QuantArgs | None:
    bits = s["a_bit"]
    if bits == 16:
        s.carry("a_bit", "activations stay in float")
        s.leave("act_method", "activations stay in float")
        return None
    s.carry("a_bit", f"activations: int{bits}")
    if s["is_dynamic"]:
        s.carry("is_dynamic", "activations: scaled by token at run time")
        s.leave("act_method", "dynamic activations are not calibrated")
        return QuantArgs(num_bits=bits, strategy="token", dynamic=True)
    observer = OBSERVER[s["act_method"]]
    s.carry("act_method", f"activations: observer {observer}")
    s.carry("is_dynamic", "activations: scaled by calibration")
    if observer == EXACT:
        s.report.note("act_method 1 averages the extremes of batches; the observer static_minmax takes those of all samples")
    return QuantArgs(num_bits=bits, symmetric=False, strategy="tensor", observer=observer)


def _groups(s: Settings) -> tuple[QuantGroup, ...]:
    weights, inputs = _weights(s), _activations(s)
    group = QuantGroup(name="group_0", weights=weights, input_activations=inputs)
    return (group,) if group.quantizes else ()


def _dealt(s: Settings, groups: tuple[QuantGroup, ...]) -> tuple[QuantGroup, ...]:
    """The groups, and one more for the layers whose input tensor-parallel ranks share, where those are simulated."""
    ranks, sends = s["tp_size"] or 1, ("enable_communication_quant", "enable_per_device_quant", "use_reduce_quant")
    weights = groups[0].weights if groups else None
    plain = weights is not None and weights.observer != LEVELS_OBSERVER and not weights.observer_kwargs
    if ranks == 1 or not plain or is_sparse(s) or s["mix_cfg"]:
        mixed = "ranks are simulated for int weights that are neither sparse, nor mixed, nor in two stages"
        s.leave(("tp_size", *sends), "one rank has all columns" if ranks == 1 else mixed)
        return groups
    s.carry("tp_size", f"o_proj and down_proj: scales of weights and static inputs for each of {ranks} ranks")
    sent = None
    if not (s["enable_communication_quant"] or s["use_reduce_quant"]):
        s.carry(sends, "what ranks send one another stays in float")
    elif s["is_dynamic"]:
        s.leave(sends, "what ranks send one another has no scales where activations are dynamic")
    else:
        s.carry(sends, "o_proj and down_proj: scales of what ranks send one another")
        sent = SENDERS[0] if s["enable_per_device_quant"] else SENDERS[1]
    return (*groups, dealt(groups[0], ranks, sent))


def _ignored(s: Settings, disabled: tuple[str, ...]) -> tuple[str, ...]:
    names = list(s["disable_names"] or ())
    if not names:
        s.carry("disable_names", f"ignore: {', '.join(disabled) or 'none'}")
    given, translated = entries(names)
    if translated:
        s.carry("disable_names", f"ignore: {len(given)} layers, by the names that the native model has for them")
        shown = next(name for name in names if native_names(name) != (name,))
        s.report.note(
            "layers are named as in the converted native model: "
            f"{shown} is {', '.join(native_names(shown))} there; convert the checkpoint before quantizing it"
        )
    s.carry("disable_names", f"ignore: {len(given)} layers")
    head: tuple[str, ...] = ()
    if s["disable_last_linear"] and (s["w_bit"] != 16 or s["a_bit"] != 16):
        pictures = any(name.startswith(PICTURES) for name in names)
        head = (PROJECTOR_END,) if pictures else (HEAD,)
        if pictures:
            s.report.note(f"the last Linear of InternVL's own code is mlp1.3, here {PROJECTOR_END}")
    covered = head and head[0] == HEAD and "lm_head" in given
    said = f"ignore: {head[0]}, the last Linear" if head else "the last Linear is quantized as the others are"
    s.carry("disable_last_linear", said)
    return tuple(dict.fromkeys((*(disabled if not names else ()), *given, *(() if covered else head))))


def _rounding(s: Settings) -> dict[str, Any]:
    method = s["w_method"]
    if s["w_bit"] == 16 or method in ("MinMax", "NF"):
        if method != "NF":
            s.carry("w_method", "weights: rounded to nearest" if s["w_bit"] != 16 else "weights stay in float")
        s.leave("percdamp", "only w_method GPTQ reads it")
        return {}
    if method == "HQQ":
        s.carry("w_method", "hqq")
        s.leave("percdamp", "only w_method GPTQ reads it")
        return {"hqq": Hqq()}
    s.carry("w_method", "gptq, columns in their own order")
    s.carry("percdamp", f"gptq: dampening_frac {s['percdamp']}")
    if is_per_group(s):
        s.report.note("msModelSlim saves plain rounding where GPTQ goes by group; here GPTQ's own result is kept")
    return {"gptq": Gptq(dampening_frac=s["percdamp"] or 0.01, actorder=None)}


def _sparse(s: Settings) -> dict[str, Any]:
    names = ("fraction", "use_sigma", "sigma_factor")
    if not is_sparse(s):
        s.leave(names, "weights are not sparse: that takes w_bit 4, a_bit 8 and is_lowbit or co_sparse True")
        s.leave("is_lowbit", "the tuning it stands for is a closed part of msModelSlim" if s["is_lowbit"] else "it is off")
        s.leave("co_sparse", "it is off")
        return {}
    which = "is_lowbit" if s["is_lowbit"] else "co_sparse"
    s.carry(which, "sparse: 4-bit weights with protected outliers")
    s.leave("co_sparse", "is_lowbit makes the sparse weights")
    s.leave("is_lowbit", "co_sparse makes the sparse weights")
    if s["use_sigma"]:
        s.carry(("use_sigma", "sigma_factor"), f"sparse: outliers are beyond {s['sigma_factor']} standard deviations")
        s.leave("fraction", "use_sigma chooses the outliers")
        return {"sparse": Sparse(sigma=s["sigma_factor"])}
    s.carry("fraction", f"sparse: a share of {s['fraction']} is protected")
    s.leave(("sigma_factor", "use_sigma"), "use_sigma is off")
    return {"sparse": Sparse(fraction=s["fraction"])}


def _outliers(s: Settings) -> dict[str, Any]:
    method, flex = s["anti_method"], s["flex_config"] or {}
    skipped, _ = entries(list(s["disable_anti_names"] or ()))
    if not method:
        s.carry("anti_method", "no suppression of outliers")
        s.leave(("flex_config", "disable_anti_names"), "no anti_method is set")
        return {}
    if method != "m6":
        s.leave("flex_config", "only anti_method m6 reads it")
    if method not in ("m4", "m6"):
        ours = "AWQ here goes by groups of layers" if method == "m3" else "only m3, m4 and m6 read it"
        s.leave("disable_anti_names", ours)
    s.leave([f"AntiOutlierConfig.{name}" for name in ("w_bit", "a_bit", "w_sym")], "the scheme of the layers says it here")
    if method == "m1":
        s.carry("anti_method", "outliers: m1, which is SmoothQuant with strength 0.5")
        return {"outliers": OutlierSuppression(method="m1")}
    if method == "m3":
        s.carry("anti_method", "awq, a grid of 20 over the activations' means")
        return {"awq": Awq(duo_scaling=False)}
    s.carry("anti_method", f"outliers: {method}")
    if method == "m6":
        s.carry("flex_config", f"outliers: {', '.join(f'{key} {value}' for key, value in flex.items()) or 'searched'}")
    s.carry("disable_anti_names", f"outliers: {len(skipped)} layers are left as they are")
    exponents = flex if method == "m6" else {}
    ignore = skipped if method in ("m4", "m6") else ()
    return {"outliers": OutlierSuppression(method=method, ignore=ignore, **exponents)}


def _cache(s: Settings) -> dict[str, Any]:
    if not s["use_kvcache_quant"]:
        s.carry("use_kvcache_quant", "keys and values stay in float")
        s.leave("kv_sym", "keys and values stay in float")
        return {}
    symmetric = s["kv_sym"] is not False
    kind = "symmetric" if symmetric else "asymmetric"
    s.carry(("use_kvcache_quant", "kv_sym"), f"kv_cache: int8, {kind}, one scale a channel")
    return {"kv_cache": QuantArgs(symmetric=symmetric, strategy="channel", observer="static_minmax")}


def _mixed(s: Settings) -> tuple[list[QuantGroup], list[str]]:
    """Groups and ignore entries of mix_cfg; a pattern does not take what one before it takes, nor an exact name does."""
    base = s["group_size"] or 64
    plain, by_token = QuantArgs(strategy="channel", observer=EXACT), QuantArgs(strategy="token", dynamic=True)
    two_stage = QuantArgs(num_bits=4, strategy="group", group_size=base, observer=EXACT, observer_kwargs={"stages": 2})
    kinds: dict[str, tuple[QuantArgs, QuantArgs | None]] = {
        "w8a8": (plain, QuantArgs(symmetric=False, observer=OBSERVER[s["act_method"]])),
        "w8a16": (plain, None),
        "w8a8_dynamic": (plain, by_token),
        "w4a8_dynamic": (two_stage, by_token),
    }
    found: dict[str, list[str]] = {}
    mixed: dict[str, str] = s["mix_cfg"] or {}
    before = [pattern_of(native) for name in mixed if not is_glob(name) for native in native_names(name)]
    for name, kind in mixed.items():
        for native in native_names(name):
            taken = f"(?!(?:{'|'.join(before)})$)" if before else ""
            found.setdefault(kind, []).append(f"re:{taken}{pattern_of(native)}$" if is_glob(native) else native)
        before += [pattern_of(native) for native in native_names(name) if is_glob(name)]
    floats = found.pop("float", [])
    groups = [
        QuantGroup(name=kind, targets=tuple(targets), weights=kinds[kind][0], input_activations=kinds[kind][1])
        for kind, targets in found.items()
    ]
    s.carry("mix_cfg", f"{len(groups)} more groups and {len(floats)} ignore entries")
    return groups, floats


def _leave_rest(s: Settings) -> None:
    closed = "what it does stands in a closed part of msModelSlim"
    s.leave("pr", "it leaves random activations in float while calibrating; every sample counts in full here")
    s.leave("nonuniform", closed)
    s.leave("do_smooth", f"{closed}; anti_method m1 is the nearest" if s["do_smooth"] else "it is off")
    s.leave("group_size", "weights go by group only with is_lowbit True and open_outlier False")
    s.leave("block_size", "only w_method NF reads it")
    s.leave("open_outlier", "it counts with is_lowbit only")
    s.leave("pdmix", "prefill takes its scales at run time there; here all do as a_bit says" if s["pdmix"] else "it is off")
    attention = "attention itself is not quantized by this version; use_kvcache_quant is the nearest"
    s.leave("use_fa_quant", attention if s["use_fa_quant"] else "it is off")
    s.leave("fa_amp", attention)
    s.leave("disable_threshold", "layers are chosen by a score there; disable_level or a fallback is the nearest")
    s.leave(("model_type", "is_8B_model"), "it chooses what the script leaves in float where disable_names does not")
