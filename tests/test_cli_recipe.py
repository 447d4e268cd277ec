"""The recipe commands of the command line: what they print, and their exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from quantui import cli
from quantui.recipe import llmcompressor
from quantui.workspace import RECIPES
from tests.recipe.commands import COMMANDS

ROOT = Path(__file__).parents[1]
CHAT = ROOT / "assets" / "demo" / "chat"


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main(["recipe", *(str(argument) for argument in arguments)])
        said = capsys.readouterr()
        return Said(int(caught.value.code or 0), said.out, said.err)

    return command


# --- import


@pytest.mark.parametrize("name", COMMANDS)
def test_import_prints_a_recipe_and_what_was_left(run: Callable[..., Said], name: str) -> None:
    said = run("import", COMMANDS[name])
    assert said.code == 0 and "not carried over, because" in said.err
    if "calibrate" in name:
        assert "statistics only" in said.out
    else:
        golden = (ROOT / f"tests/recipe/golden/{name}.yaml").read_text(encoding="utf-8")
        assert llmcompressor.loads(said.out) == llmcompressor.loads(golden)


def test_import_reads_files_and_stdin(run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = COMMANDS["lmdeploy-auto-awq"]
    (tmp_path / "run.sh").write_text(text, encoding="utf-8")
    (tmp_path / "plain").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    wanted = run("import", text).out
    assert run("import", "run.sh").out == run("import", "plain").out == run("import", "-", "--from", "lmdeploy").out == wanted


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["import", "missing.yaml"], "missing.yaml: the file cannot be read"),
        (["import", "Dear reader"], "pasted text:1:1: nothing tells what the text is"),
        (["import", "x", "--from", "vllm"], "there is no vocabulary 'vllm'"),
        (["import", "python3 quant_glm.py --w_bits 8"], "pasted text:1:22: quant_glm.py has no parameter '--w_bits'"),
        (["import"], "Missing argument"),
        (["check", "missing.yaml", "--model", "x"], "missing.yaml"),
        (["check", "int8-w8a8-static", "--model", "missing"], "missing"),
        (["check", "int8-w8a8-static"], "Missing option"),
        (["diff", "int8-w8a8-static", "nope", "--model", str(CHAT)], "nope"),
        (["import", "bad.txt"], "not UTF-8"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_sentence(
    run: Callable[..., Said], tmp_path: Path, arguments: list[str], what: str
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    said = run(*arguments)
    assert said.code == 2 and said.out == "" and what in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.err.endswith(".\n")


# --- check


def test_check_says_what_a_recipe_does(run: Callable[..., Said]) -> None:
    said = run("check", "int8-w8a8-static", "--model", CHAT)
    assert said.code == 0
    assert "Linear takes" in said.out and "W8A8 int8 per tensor static: 28 layers" in said.out
    assert "bits per weight" in said.out and "can be loaded by vLLM" in said.out and "cannot be loaded by lmdeploy" in said.out


def test_check_as_json_is_one_object(run: Callable[..., Said]) -> None:
    said = run("check", RECIPES / "int8-w8a8-static.yaml", "--model", CHAT, "--json")
    body = json.loads(said.out)
    assert said.code == 0 and said.out.count("\n") == 1 and body["problems"] == []
    assert body["layers_quantized"] + body["layers_left"] == len(body["layers"])
    assert {target["name"] for target in body["targets"]} >= {"vLLM", "transformers", "lmdeploy"}


def test_check_tells_every_problem_and_exits_with_2(run: Callable[..., Said], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n"
        "      scheme: W4A16\n      targets: ['re:.*q_proj$', 'Linear']\n"
        "      ignore: [lm_haed, 're:.*up_projection']\n",
        encoding="utf-8",
    )
    said = run("check", recipe, "--model", CHAT)
    assert said.code == 2 and said.err.count("error: ") >= 2
    assert "'lm_haed' matches no layer" in said.err and "'re:.*up_projection' matches no layer" in said.err
    body = json.loads(run("check", recipe, "--model", CHAT, "--json").out)
    assert len([problem for problem in body["problems"] if problem["severity"] == "error"]) == said.err.count("error: ")


def test_check_points_out_what_was_not_meant(run: Callable[..., Said], tmp_path: Path) -> None:
    text = (RECIPES / "int8-w8a8-static.yaml").read_text(encoding="utf-8")
    (tmp_path / "r.yaml").write_text(text.replace("ignore: [", 'ignore: ["re:.*mlp.gate", '), encoding="utf-8")
    said = run("check", "r.yaml", "--model", CHAT)
    assert said.code == 0 and "warning: 're:.*mlp.gate' also takes" in said.err


# --- list and diff


def test_list_names_shipped_recipes_and_ones_own(run: Callable[..., Said], tmp_path: Path) -> None:
    own = tmp_path / "space" / "recipes"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("a: 1\n", encoding="utf-8")
    said = run("list", "--workspace", tmp_path / "space")
    assert said.code == 0 and "int8-w8a8-static  " in said.out and said.out.splitlines()[-1] == "mine"
    rows = json.loads(run("list", "--json").out)["recipes"]
    assert {row["name"] for row in rows} == {path.stem for path in RECIPES.glob("*.yaml")}
    assert all(row["shipped"] and row["about"] for row in rows)
    assert not (tmp_path / "workspace").exists()


def test_diff_says_which_layers_change_and_how(run: Callable[..., Said], tmp_path: Path) -> None:
    first = (RECIPES / "int8-w8a8-static.yaml").read_text(encoding="utf-8")
    (tmp_path / "b.yaml").write_text(first.replace("ignore: [", 'ignore: ["re:.*down_proj$", '), encoding="utf-8")
    said = run("diff", "int8-w8a8-static", "b.yaml", "--model", CHAT)
    *changed, last = said.out.splitlines()
    assert said.code == 0 and changed and all(line.endswith("W8A8 int8 per tensor static -> float") for line in changed)
    assert last.startswith(f"{len(changed)} of ") and "MB" in last
    body = json.loads(run("diff", "int8-w8a8-static", "fp8-w8a8-kv8", "--model", CHAT, "--json").out)
    assert body["also"]["kv_cache"] == ["float", "fp8 per tensor static"] and body["changed"]
    assert run("diff", "b.yaml", "b.yaml", "--model", CHAT).out.startswith("0 of ")


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from quantui.cli_recipe import app; from quantui.recipe.importing import import_text;"
        "import_text('lmdeploy lite auto_awq m'); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- set


def test_fields_are_set_and_comments_stay(run: Callable[..., Said], tmp_path: Path) -> None:
    said = run("set", "int8-w8a16", "rounding=gptq", "gptq_block_size=64", "ignore=re:.*lm_head,model.layers.0.mlp.up_proj")
    assert said.code == 0 and not said.err
    assert said.out.startswith((RECIPES / "int8-w8a16.yaml").read_text().splitlines()[0])
    made = llmcompressor.loads(said.out)
    assert made.gptq is not None and made.gptq.block_size == 64 and made.ignore[1] == "model.layers.0.mlp.up_proj"
    (tmp_path / "again.yaml").write_text(said.out)
    assert run("set", "again.yaml", "rounding=rtn").out != said.out


@pytest.mark.parametrize(("pair", "what"), [
    ("rounding", "FIELD=VALUE"), ("wight_bits=4", "did you mean weight_bits"), ("weight_bits=40", "2 to 8"),
    ("weight_bits=", "cannot be"), ("gptq_block_size=64", "does not use gptq"),
])  # fmt: skip
def test_a_field_that_cannot_be_set_is_refused(run: Callable[..., Said], pair: str, what: str) -> None:
    said = run("set", "int8-w8a16", pair)
    assert said.code == 2 and what in said.err and not said.out


def test_a_long_text_is_no_name_of_a_file(run: Callable[..., Said]) -> None:
    said = run("import", "QuantConfig(" * 300)
    assert said.code == 2 and "please report" not in said.err
