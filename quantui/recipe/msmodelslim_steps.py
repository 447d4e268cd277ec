"""The steps of msModelSlim's practice YAML: what is quantized how, and what is done before."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from quantui.recipe import text as yaml_text
from quantui.recipe.imported import Given, Report
from quantui.recipe.original_names import entries, is_glob, native_names, pattern_of
from quantui.recipe.schema import (
    AutoRound,
    Awq,
    EngineModifier,
    Gptq,
    OutlierSuppression,
    QuantArgs,
    QuantGroup,
    SmoothQuant,
)
from quantui.recipe.settings import nearest

Path = tuple[str | int, ...]
_BITS = {"int8": 8, "int4": 4}
_NEEDS = {
    "kv_smooth": "keys are not smoothed by this version; use anti_method m1 or m4 of the layers",
    "flatquant": "its learned transforms have no counterpart; autoround is the nearest",
    "svd_res": "low-rank residuals have no counterpart",
    "adapt_rotation": "its learned rotation has no counterpart; quarot is the nearest",
    "online_quarot": "rotations at run time are lost when transformers loads the result; quarot is the nearest",
    "fa3_quant": "attention itself is not quantized by this version; dynamic_cache is the nearest",
    "float_sparse": "it prunes; SparseGPTModifier of the engine is the nearest",
}
"""Process steps that are not carried over, and why."""


class Steps:
    """Reads one document into a report."""

    def __init__(self, document: yaml_text.Document, report: Report) -> None:
        self.document, self.report = document, report
        self.fields: dict[str, Any] = {}
        self.layers: list[tuple[str, dict[str, Any], list[str], list[str]]] = []

    def leave(self, path: Path, value: Any, because: str) -> None:
        """A value is not taken over."""
        self.report.leave(self._given(path, value), because)

    def carry(self, path: Path, value: Any, became: str) -> None:
        """A value is taken over."""
        self.report.carry(self._given(path, value), became)

    def _given(self, path: Path, value: Any) -> Given:
        return Given(".".join(map(str, path)), value, self.document.line(path))

    def fail(self, what: str, path: Path, todo: str) -> Exception:
        """An error at the line of a value."""
        return self.document.fail(what, path, todo)

    def mapping(self, value: Any, path: Path) -> dict[str, Any]:
        """A value that has to be a mapping."""
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.fail(f"{path[-1]} must be a mapping of names", path, "write it as key: value")
        return value

    def names(self, value: Any, path: Path) -> list[str]:
        """A value that has to be a list of patterns, or one."""
        listed = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise self.fail(f"{path[-1]} must be a list of layer patterns", path, "for example ['*mlp*']")
        return listed

    def steps(self, value: Any, path: Path) -> None:
        """Takes in a list of steps."""
        if not isinstance(value, list) or not value:
            raise self.fail(f"{path[-1]} must be a list of steps", path, "for example [{type: linear_quant, ...}]")
        for index, entry in enumerate(value):
            place = (*path, index)
            step = self.mapping(entry, place)
            kind = step.get("type")
            if kind == "group":
                self.steps(step.get("configs"), (*place, "configs"))
            elif kind in _STEPS:
                _STEPS[kind](self, step, place)
            elif kind in _NEEDS:
                self.leave((*place, "type"), kind, _NEEDS[kind])
            else:
                raise self.fail(f"unknown step {kind!r}", place, nearest(str(kind), (*_STEPS, *_NEEDS, "group")))

    def linear(self, step: dict[str, Any], place: Path) -> None:
        """linear_quant, and one strategy of autoround_quant."""
        scheme = self.mapping(step.get("qconfig"), (*place, "qconfig"))
        args: dict[str, Any] = {}
        for key, field in (("weight", "weights"), ("act", "input_activations")):
            if scheme.get(key) is not None:
                path = (*place, "qconfig", key)
                args[field] = self.args(self.mapping(scheme[key], path), path, weights=key == "weight")
        include = self.names(step.get("include", ["*"]), (*place, "include"))
        exclude = self.names(step.get("exclude"), (*place, "exclude"))
        if "weights" not in args:
            raise self.fail("the step says no weights", place, "give its qconfig a weight")
        self.layers.append((f"group_{len(self.layers)}", args, include, exclude))
        for key, names in (("include", include), ("exclude", exclude)):
            if key in step:
                self.carry(
                    (*place, key), names, f"{'targets' if key == 'include' else 'left out'} of group_{len(self.layers) - 1}"
                )

    def args(self, body: dict[str, Any], path: Path, *, weights: bool) -> QuantArgs | None:
        """One qconfig entry; None for float."""
        scope, dtype = body.get("scope", "per_channel" if weights else "per_tensor"), body.get("dtype", "int8")
        ext = self.mapping(body.get("ext"), (*path, "ext"))
        fields: dict[str, Any] = {"symmetric": body.get("symmetric", True)}
        if dtype in ("float", "bfloat16", "float16"):
            self.carry((*path, "dtype"), dtype, "stays in float")
            return None
        if dtype in ("fp8_e4m3", "wfp8"):
            fields["type"] = "float"
        elif str(dtype).startswith("mxfp"):
            bits = 4 if "4" in str(dtype) else 8
            fields |= {"type": "float", "num_bits": bits, "strategy": "group", "group_size": 32, "dynamic": not weights}
            fields |= {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
        elif dtype in _BITS:
            fields["num_bits"] = _BITS[dtype]
        else:
            raise self.fail(f"dtype {dtype!r} is not known", (*path, "dtype"), "use int8, int4, fp8_e4m3 or mxfp8")
        if "strategy" not in fields:
            fields |= self._scope(str(scope), ext, path, weights=weights)
        method = str(body.get("method", "minmax"))
        self._method(method, fields, path, weights=weights)
        try:
            made = QuantArgs(**fields)
        except ValidationError as error:
            what = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise self.fail(what, path, "correct the values") from None
        for key, value in body.items():
            if key not in ("scope", "dtype", "symmetric", "method", "ext"):
                raise self.fail(f"unknown key {key!r} in {path[-1]}", (*path, key), "use scope, dtype, symmetric and method")
            if key not in ("method", "ext"):
                self.carry((*path, key), value, _said(made))
        for key, value in ext.items():
            if key == "group_size" and made.group_size == value:
                self.carry((*path, "ext", key), value, _said(made))
            else:
                self.leave((*path, "ext", key), value, "it is a knob of msModelSlim's own method")
        return made

    def _scope(self, scope: str, ext: dict[str, Any], path: Path, *, weights: bool) -> dict[str, Any]:
        if scope == "per_group":
            return {"strategy": "group", "group_size": ext.get("group_size", 128)}
        if scope == "per_block":
            return {"strategy": "block", "block_structure": (128, 128)} if weights else {"strategy": "token", "dynamic": True}
        kinds: dict[str, dict[str, Any]] = {
            "per_tensor": {"strategy": "tensor"},
            "per_channel": {"strategy": "channel"},
            "per_token": {"strategy": "token", "dynamic": True},
            "pd_mix": {"strategy": "tensor"},
        }
        if scope not in kinds:
            raise self.fail(f"scope {scope!r} is not known", (*path, "scope"), f"use one of {', '.join(kinds)}, per_group")
        if scope == "pd_mix":
            self.report.note("pd_mix takes scales of prefill at run time; here all are static, by tensor")
        return kinds[scope]

    def _method(self, method: str, fields: dict[str, Any], path: Path, *, weights: bool) -> None:
        static = not weights and not fields.get("dynamic")
        if method in ("minmax", "histogram") and static:
            fields["observer"] = "static_minmax" if method == "minmax" else "histogram"
            self.carry((*path, "method"), method, f"observer {fields['observer']}")
        elif method == "minmax":
            self.carry((*path, "method"), method, "the extremes, rounded to nearest")
        elif method == "ssz" and weights:
            fields["observer"] = "mse"
            self.carry((*path, "method"), method, "observer mse, which searches the scale as well")
        elif method == "gptq" and weights:
            self.fields["gptq"] = Gptq(actorder=None)
            self.carry((*path, "method"), method, "gptq, columns in their own order")
        elif method == "autoround" and weights:
            self.fields.setdefault("autoround", AutoRound())
            self.carry((*path, "method"), method, "autoround")
        elif method == "histogram":
            self.leave((*path, "method"), method, "dynamic scales and weights have no histogram")
        else:
            raise self.fail(f"method {method!r} is not known", (*path, "method"), "use minmax, histogram, ssz or gptq")

    def grouped(self) -> tuple[list[QuantGroup], list[str]]:
        """Groups of the steps; a layer that several take goes to the first."""
        groups, before, ignored = [], [], []  # type: list[QuantGroup], list[str], list[str]
        alone = len(self.layers) == 1
        for name, args, include, exclude in self.layers:
            if alone and include == ["*"]:
                groups.append(QuantGroup(name=name, targets=("Linear",), **args))
                ignored = list(entries(exclude)[0])
                continue
            left = [pattern_of(native) for item in exclude for native in native_names(item)] + before
            natives = [native for item in include for native in native_names(item)]
            taken = f"(?!(?:{'|'.join(left)})$)" if left else ""
            wanted = [f"re:{taken}{pattern_of(item)}$" if is_glob(item) or taken else item for item in natives]
            groups.append(QuantGroup(name=name, targets=tuple(dict.fromkeys(wanted)), **args))
            mine = "|".join(pattern_of(item) for item in natives)
            out = [pattern_of(native) for item in exclude for native in native_names(item)]
            before.append(f"(?!(?:{'|'.join(out)})$)(?:{mine})" if out else f"(?:{mine})")
        every = [name for _, _, include, exclude in self.layers for name in (*include, *exclude)]
        if entries(every)[1]:
            self.report.note("layers are named as in the converted native model; convert the checkpoint before quantizing it")
        return groups, ignored

    def suppress(self, step: dict[str, Any], place: Path) -> None:
        """iter_smooth, smooth_quant, flex_smooth_quant, flex_awq_ssz and awq."""
        kind = str(step["type"])
        alpha, beta = step.get("alpha"), step.get("beta")
        ignore = entries(self.names(step.get("exclude"), (*place, "exclude")))[0]
        try:
            field, made = _suppression(kind, alpha, beta, ignore)
        except ValidationError as error:
            raise self.fail(error.errors()[0]["msg"], place, "use values from 0 to 1") from None
        if field in self.fields or {"smoothquant", "awq", "outliers"} & set(self.fields):
            self.leave((*place, "type"), kind, "a recipe suppresses outliers once; an earlier step does")
            return
        self.fields[field] = made
        self.carry((*place, "type"), kind, field if field != "outliers" else f"outliers: {getattr(made, 'method', '')}")
        for key, value in step.items():
            used = (key in ("alpha", "beta") and field != "awq") or (key == "exclude" and field != "awq")
            if used:
                self.carry((*place, key), value, field)
            elif key == "include" and value in (["*"], "*"):
                self.carry((*place, key), value, "every layer")
            elif key != "type":
                self.leave((*place, key), value, "the method chooses it by itself here")

    def rounding(self, step: dict[str, Any], place: Path) -> None:
        """autoround_quant."""
        iters = step.get("iters", 10)
        if type(iters) is not int or iters < 0:
            raise self.fail("iters must be a whole number", (*place, "iters"), "use 200")
        self.fields["autoround"] = AutoRound(iters=iters)
        self.carry((*place, "iters"), iters, f"autoround: {iters} steps a block")
        strategies = step.get("strategies")
        if not isinstance(strategies, list):
            raise self.fail("autoround_quant needs strategies", place, "give it a list of qconfig, include and exclude")
        for index, entry in enumerate(strategies):
            path = (*place, "strategies", index)
            self.linear(self.mapping(entry, path), path)
        for key, value in step.items():
            if key not in ("type", "iters", "strategies"):
                self.leave((*place, key), value, "AutoRound of the engine tunes both")

    def cache(self, step: dict[str, Any], place: Path) -> None:
        """dynamic_cache."""
        body = self.mapping(step.get("qconfig"), (*place, "qconfig"))
        symmetric = bool(body.get("symmetric", True))
        self.fields["kv_cache"] = QuantArgs(symmetric=symmetric, strategy="channel", observer="static_minmax")
        self.carry((*place, "qconfig"), body, "kv_cache: int8, one scale a channel")
        if step.get("exclude"):
            self.leave((*place, "exclude"), step["exclude"], "a K/V cache is quantized in all layers or in none here")
        if step.get("include") not in (None, ["*"], "*"):
            self.leave((*place, "include"), step["include"], "a K/V cache is quantized in all layers or in none here")

    def rotate(self, step: dict[str, Any], place: Path) -> None:
        """quarot."""
        settings = {"rotations": ["R1", "R2"], "transform_type": "hadamard"}
        self.fields["engine_modifiers"] = (EngineModifier(name="SpinQuantModifier", settings=settings),)
        self.carry((*place, "type"), "quarot", "SpinQuantModifier with R1 and R2, which rotate the same places")
        for key, value in step.items():
            if key != "type":
                self.leave((*place, key), value, "rotations are of full size and folded into the weights here")


def _suppression(kind: str, alpha: Any, beta: Any, ignore: tuple[str, ...]) -> tuple[str, Any]:
    if kind == "smooth_quant":
        return "smoothquant", SmoothQuant(strength=0.5 if alpha is None else alpha, ignore=ignore)
    if kind in ("awq", "flex_awq_ssz"):
        return "awq", Awq(duo_scaling=False)
    method: Any = "m4" if kind == "iter_smooth" else "m6"
    return "outliers", OutlierSuppression(method=method, alpha=alpha, beta=beta, ignore=ignore)


def _said(args: QuantArgs) -> str:
    kind = "int" if args.type == "int" else "fp"
    size = f" of {args.group_size}" if args.group_size else ""
    return f"{kind}{args.num_bits}, by {args.strategy}{size}, {'symmetric' if args.symmetric else 'asymmetric'}"


_STEPS = {
    "linear_quant": Steps.linear,
    "iter_smooth": Steps.suppress,
    "smooth_quant": Steps.suppress,
    "flex_smooth_quant": Steps.suppress,
    "flex_awq_ssz": Steps.suppress,
    "awq": Steps.suppress,
    "autoround_quant": Steps.rounding,
    "dynamic_cache": Steps.cache,
    "quarot": Steps.rotate,
}
