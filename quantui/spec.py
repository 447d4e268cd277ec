"""What a job is asked to do: the one object that crosses from the web process to the worker, as spec.json."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

QUANTIZE_STAGES = ("start", "fallback", "load", "evaluate_original", "quantize", "check", "save", "reopen", "evaluate_result")
"""The stages of a quantize job in their order; `fallback` is left out where the recipe does not ask for it,
`evaluate_*` where there is no evaluation data."""


CONVERT_STAGES = ("start", "check", "copy", "reread", "files", "verify")
"""The stages of a convert job in their order; `verify` is left out where it is not asked for."""

STATS_STAGES = ("start", "load", "observe", "weights", "save")
"""The stages of a stats job in their order; `weights` is left out where it is not asked for."""

SENSITIVITY_STAGES = ("start", "load", "ranges", "score", "save")
"""The stages of a sensitivity job in their order."""

COMPARE_STAGES = ("start", "load", "measure", "decode", "layers", "noise", "save")
"""The stages of a compare job in their order."""


HARNESS_STAGES = ("start", "load", "original", "quantized")
"""The stages of a job that runs benchmarks, in their order."""

EXPORT_STAGES = ("start", "check", "write", "reread")
"""The stages of an export job in their order."""


class _Spec(BaseModel):
    """What every job is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    out: str


class _LoadingSpec(_Spec):
    """What a job is told that loads a model and reads data."""

    model: str
    device: str = "auto"
    trust_remote_code: bool = False
    roots: tuple[str, ...] = ()


class QuantizeSpec(_LoadingSpec):
    """One quantize job.

    Recipe and calibration travel as text, so that editing the files while the job waits in the queue changes nothing.

    Attributes:
        name: what people call the run, for lists ("chat · fp8-w8a8-kv8").
        model: absolute path of the float model folder.
        recipe: text of the recipe file.
        recipe_path: where the text came from, for messages.
        calibration: text of the calibration file, or None for a recipe that needs no data.
        calibration_path: where that came from; relative paths in the text start at its folder.
        evaluation: absolute path of a jsonl file of held-out questions, or None.
        out: absolute path of the folder to write; must not exist.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the model folder may run.
        fallback: whether the recipe asks for automatic fallback, which is a stage of its own.
        statistics: whether the float model's statistics are gathered while the engine calibrates, where that shows them.
        roots: absolute folders the job may read data from; empty for the command line, which has its user's own rights.
    """

    kind: Literal["quantize"] = "quantize"
    recipe: str
    recipe_path: str
    calibration: str | None
    calibration_path: str | None
    evaluation: str | None
    fallback: bool = False
    statistics: bool = True

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        evaluated = bool(self.evaluation)
        has = {"fallback": self.fallback, "evaluate_original": evaluated, "evaluate_result": evaluated}
        return tuple(stage for stage in QUANTIZE_STAGES if has.get(stage, True))


class ConvertSpec(_Spec):
    """One convert job.

    Attributes:
        name: what people call the run, for lists ("InternVL2-8B · internvl").
        model: absolute path of the folder to convert.
        out: absolute path of the folder to write; must not exist.
        processor_from: absolute path of a folder whose tokenizer and processor files are copied, or None to make them.
        max_shard_bytes: how many bytes of tensors a file may hold.
        dtype: what floating-point weights are stored as; "keep" leaves each as it is.
        allow_extra: drop tensors that belong to no place instead of stopping.
        image_token_id: the token that stands for a picture, where no tokenizer tells it.
        verify: whether logits of both sides are compared.
        device: always the CPU.
    """

    kind: Literal["convert"] = "convert"
    model: str
    processor_from: str | None = None
    max_shard_bytes: int = 5_000_000_000
    dtype: Literal["keep", "bf16", "fp16"] = "keep"
    allow_extra: bool = False
    image_token_id: int | None = None
    verify: bool = True
    device: str = "cpu"

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return tuple(s for s in CONVERT_STAGES if self.verify or s != "verify")


class StatsSpec(_LoadingSpec):
    """One job that collects statistics.

    Attributes:
        name: what people call the run, for lists ("chat · statistics").
        model: absolute path of the float model folder.
        calibration: text of the calibration file.
        calibration_path: where that came from; relative paths in the text start at its folder.
        out: absolute path of the folder to write; must not exist.
        detail: whether moments and distributions are gathered too.
        weights: whether weights are looked at.
        lmdeploy: whether lmdeploy's four files are written beside the table.
        not_finite: what happens when an activation is NaN or infinite: stop, or leave the sample out.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the model folder may run.
        roots: absolute folders the job may read data from; empty for the command line.
    """

    kind: Literal["stats"] = "stats"
    calibration: str
    calibration_path: str
    detail: bool = False
    weights: bool = True
    lmdeploy: bool = False
    not_finite: Literal["stop", "skip"] = "stop"

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return tuple(s for s in STATS_STAGES if self.weights or s != "weights")


class SensitivitySpec(_LoadingSpec):
    """One job that tells what every layer costs, or what one choice of layers really costs.

    Attributes:
        name: what people call the run, for lists ("chat · fisher").
        model: absolute path of the float model folder.
        recipe: text of the recipe file.
        recipe_path: where the text came from, for messages.
        calibration: text of the calibration file.
        calibration_path: where that came from; relative paths in the text start at its folder.
        out: absolute path of the folder to write; must not exist.
        method: how layers are scored; "measure" runs the model with the recipe's own choice instead; "auto" looks for the
            fewest layers in float that hold `target`.
        schemes: names of the schemes to try; none means the recipe's own and the usual ones.
        draws: labels drawn for every token, by the method fisher.
        samples: how many of the calibration's samples are used at most; None for all.
        scores: absolute path of scores that say in which order "auto" lets layers fall back, or None.
        target: what "auto" has to hold: "exact_match" or "kl" with its limit, or None.
        evaluation: absolute path of a jsonl file of held-out questions, for "auto" by exact match.
        stream: for "local": only one decoder layer is in memory at a time, which is so anyway where the model is too large.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the model folder may run.
        roots: absolute folders the job may read data from; empty for the command line.
    """

    kind: Literal["sensitivity"] = "sensitivity"
    recipe: str
    recipe_path: str
    calibration: str
    calibration_path: str
    method: Literal["fisher", "path", "exact", "local", "measure", "auto"] = "fisher"
    schemes: tuple[str, ...] = ()
    draws: int = Field(default=4, ge=1, le=64)
    samples: int | None = Field(default=None, ge=1)
    scores: str | None = None
    target: tuple[Literal["exact_match", "kl"], float] | None = None
    evaluation: str | None = None
    stream: bool = False

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return SENSITIVITY_STAGES


class CompareSpec(_LoadingSpec):
    """One job that measures how far two models are apart on an evaluation set.

    Attributes:
        name: what people call the run, for lists ("chat · int8-w8a8-static · comparison").
        model: absolute path of the original model's folder.
        quantized: absolute path of the quantized model's folder.
        data: absolute path of a jsonl file of questions with their answers.
        limit: rows that are used, from the first; 0 for all.
        out: nothing is written outside the run folder.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the model folder may run.
        roots: absolute folders the job may read data from; empty for the command line.
    """

    kind: Literal["compare"] = "compare"
    quantized: str
    data: str
    limit: int = 0
    out: str = ""

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return COMPARE_STAGES


class HarnessSpec(_LoadingSpec):
    """One job that runs benchmarks of lm-evaluation-harness on two models.

    Attributes:
        name: what people call the run, for lists ("chat-int8 · lm-eval").
        model: absolute path of the original model's folder.
        quantized: absolute path of the quantized model's folder.
        tasks: names of the harness's tasks.
        tasks_folder: absolute path of a folder of more tasks, or None.
        limit: rows of each task that are used, from the first; 0 for all.
        chat: whether prompts go through the model's chat template.
        out: nothing is written outside the run folder.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the folders of model and tasks may run.
        roots: absolute folders the job may read data from; empty for the command line.
    """

    kind: Literal["harness"] = "harness"
    quantized: str
    tasks: tuple[str, ...]
    tasks_folder: str | None = None
    limit: int = 0
    chat: bool = False
    out: str = ""

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return HARNESS_STAGES


class ExportSpec(_Spec):
    """One job that writes quantized weights in another format.

    Attributes:
        name: what people call the run, for lists ("chat-int8 · awq").
        source: absolute path of the folder of quantized weights.
        format: the name of the format.
        out: absolute path of the folder to write; must not exist.
        part_bytes: how many bytes of tensors a file may hold; None leaves it to the format.
        device: always the CPU.
    """

    kind: Literal["export"] = "export"
    source: str
    format: str
    part_bytes: int | None = None
    device: str = "cpu"

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return EXPORT_STAGES


JobSpec = Annotated[
    QuantizeSpec | ConvertSpec | StatsSpec | SensitivitySpec | CompareSpec | HarnessSpec | ExportSpec,
    Field(discriminator="kind"),
]
