"""Choosing by scores: against every choice there is on small tables, and quick on large ones."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from quantui.cli_sensitivity import budget_bytes, chosen
from quantui.errors import InputError, ResultError
from quantui.recipe import edit, llmcompressor
from quantui.recipe.words import FLOAT, cache_words
from quantui.sensitivity import select
from quantui.sensitivity.apply import applied, cached, check_belongs, forecast
from quantui.sensitivity.auto import Probe, Search, parse_target
from quantui.sensitivity.candidates import candidates, chosen_schemes, scope_hash, scored_layers
from quantui.sensitivity.scores import Row, Scores, estimate, load_scores
from quantui.sensitivity.sharing import grouped, shared_group, snapped
from tests.sensitivity.tables import RECIPE, linears, saved, scores_of

DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def scores() -> Scores:
    return scores_of(linears(1))


def every_choice(units: tuple[select.Unit, ...]) -> list[select.Point]:
    names = [unit.name for unit in units]
    return [
        select.point_of(units, dict(zip(names, schemes, strict=True)))
        for schemes in itertools.product(*([option.scheme for option in unit.options] for unit in units))
    ]


def test_layers_that_share_a_format_are_told_by_their_names() -> None:
    names = [layer.name for layer in linears(1)]
    assert list(grouped(names)) == [
        "model.layers.0.self_attn.qkv",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_up",
        DOWN,
    ]
    assert snapped([names[1]], names) == tuple(names[:3])
    experts = [f"model.layers.3.mlp.experts.{n}.{part}" for n in range(2) for part in ("gate_proj", "down_proj")]
    assert set(map(shared_group, experts)) == {"model.layers.3.mlp.experts"}
    assert shared_group("model.layers.0.mlp.gate_up_proj") == "model.layers.0.mlp.gate_up_proj"


def test_the_walk_is_the_best_there_is_at_its_own_sizes(scores: Scores) -> None:
    units = select.units_of(scores)
    everything = every_choice(units)
    found = select.walk(units)
    for steps in range(len(found.steps) + 1):
        point = found.point(steps)
        best = min(one.kl for one in everything if one.bytes <= point.bytes)
        assert select.point_of(units, point.choice).kl == pytest.approx(best)
        assert point.kl == pytest.approx(best, abs=1e-9)


def test_a_budget_is_kept_and_nearly_used_up(scores: Scores) -> None:
    units = select.units_of(scores)
    everything = every_choice(units)
    low, high = min(one.bytes for one in everything), max(one.bytes for one in everything)
    for budget in range(low, high, (high - low) // 17):
        point = select.within_bytes(units, budget)
        best = min(one.kl for one in everything if one.bytes <= budget)
        assert point.bytes <= budget
        assert best <= point.kl + 1e-12
    with pytest.raises(InputError, match="the smallest choice takes"):
        select.within_bytes(units, low - 1)


def test_the_smallest_choice_within_a_kl(scores: Scores) -> None:
    units = select.units_of(scores)
    walk = select.walk(units)
    for step in (0, 3, len(walk.steps)):
        assert select.within_kl(units, walk.kl[step] + 1e-15).bytes == walk.bytes[step]
    assert set(select.within_kl(units, 0.0).choice.values()) == {FLOAT}
    with pytest.raises(InputError, match="never below 0"):
        select.within_kl(units, -1)


def test_levels_take_whole_groups(scores: Scores) -> None:
    units = select.units_of(scores)
    own = {unit.name: scores.schemes[0].name for unit in units}
    damage = {unit.name: unit.option(own[unit.name]).kl for unit in units}
    for level in range(len(units) + 1):
        fell = [name for name, scheme in select.fall_back(units, own, level).choice.items() if scheme == FLOAT]
        assert fell == [unit.name for unit in units if unit.name in sorted(damage, key=lambda n: -damage[n])[:level]]
    with pytest.raises(InputError, match="L5 asks for more"):
        select.fall_back(units, own, 5)
    assert select.level_of("L2") == 2
    for wrong in ("L01", "x", "-1", ""):
        with pytest.raises(InputError, match="no fallback level"):
            select.level_of(wrong)


def test_the_front_of_a_large_model_takes_milliseconds() -> None:
    units = select.units_of(scores_of(linears(80, 64)))
    began = time.process_time()
    points = select.front(units)
    assert time.process_time() - began < 0.5
    assert 40 <= len(points) <= select.POINTS
    assert [p.bytes for p in points] == sorted(p.bytes for p in points)
    assert [p.kl for p in points] == sorted((p.kl for p in points), reverse=True)


def test_a_choice_becomes_a_recipe_and_is_read_back_from_it(scores: Scores) -> None:
    recipe = llmcompressor.load(RECIPE)
    units = select.units_of(scores)
    for point in select.front(units):
        choice = select.by_layer(units, point.choice)
        made = applied(recipe, scores, choice)
        assert chosen_schemes(made, scores.names, scores.schemes) == choice
        told = forecast(scores, made)
        assert told.bytes == scores.sizes.total(point.bytes) and not told.unknown
        recipe = made  # from whatever the last one was
    assert check_belongs(scores, recipe, "m") is None
    back = applied(recipe, scores, dict.fromkeys(scores.names, scores.schemes[0].name))
    assert chosen_schemes(back, scores.names, scores.schemes) == dict.fromkeys(scores.names, scores.schemes[0].name)


def test_what_is_as_wanted_is_left_as_it_stands(scores: Scores) -> None:
    recipe = llmcompressor.load(RECIPE)
    assert applied(recipe, scores, forecast(scores, recipe).choice) is recipe
    fell = applied(recipe, scores, {DOWN: FLOAT})
    assert fell.ignore == (*recipe.ignore, DOWN) and fell.groups == recipe.groups
    assert applied(fell, scores, {DOWN: scores.schemes[0].name}) == recipe


def test_scores_of_other_inputs_are_refused(scores: Scores) -> None:
    recipe = llmcompressor.load(RECIPE)
    with pytest.raises(InputError, match="another model"):
        check_belongs(scores, recipe, "other")
    with pytest.raises(InputError, match="another recipe"):
        check_belongs(scores, edit.set_value(recipe, "ignore", ["re:.*q_proj"]))
    check_belongs(scores, edit.fall_back(recipe, [DOWN]))  # a decision leaves them what they are
    known = candidates(recipe)
    assert scope_hash(recipe, known) == scope_hash(edit.give_scheme(recipe, [DOWN], "W4A16"), known)


def test_the_layers_that_are_scored() -> None:
    recipe = edit.fall_back(llmcompressor.load(RECIPE), [DOWN])
    layers = linears(1)
    assert [one.name for one in scored_layers(recipe, layers)] == [one.name for one in layers]
    shut = edit.override(recipe, "re:.*mlp", None)
    assert len(scored_layers(shut, layers)) == 4


def test_a_table_is_the_same_after_it_was_saved(scores: Scores, tmp_path: Path) -> None:
    again = load_scores(saved(tmp_path / "scores", scores))
    assert (again.rows, again.schemes, again.sizes, again.meta) == (scores.rows, scores.schemes, scores.sizes, scores.meta)
    choice = dict.fromkeys(scores.names[:4], scores.schemes[0].name)
    assert again.kl_of(choice) == pytest.approx(scores.kl_of(choice))
    (tmp_path / "scores" / "scores.json").write_text("{}")
    with pytest.raises(InputError, match="these are no scores"):
        load_scores(tmp_path / "scores")


def test_a_forecast_sees_errors_that_add_up(scores: Scores) -> None:
    one = {scores.names[0]: scores.schemes[0].name}
    assert scores.kl_of(one) == pytest.approx(scores.by_layer[scores.names[0], scores.schemes[0].name].kl, rel=1e-5)
    part = scores.samples["text"].copy()
    part[:, :, 3] = part[:, :, 0]  # the second layer errs as the first does
    twice = Scores(scores.method, scores.rows, scores.schemes, scores.sizes, scores.meta, {"text": part})
    both = one | {scores.names[1]: scores.schemes[0].name}
    assert twice.kl_of(both) == pytest.approx(4 * scores.kl_of(one), rel=1e-5)


def test_means_have_the_error_of_their_samples() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(5, 50, 400)
    means = []
    for _ in range(200):
        sums = random.gamma(2.0, size=(400, 1)) * tokens[:, None]
        mean, error = estimate(sums, tokens)
        means.append(float(mean[0]))
    assert np.std(means) == pytest.approx(float(error[0]), rel=0.25)
    assert float(estimate(np.ones((1, 2)), [2])[1].max()) == 0


def test_budgets_of_the_command_line(scores: Scores) -> None:
    recipe = llmcompressor.load(RECIPE)
    now = chosen_schemes(recipe, scores.names, scores.schemes)
    bits = chosen(scores, now, bits=8.0)
    assert scores.sizes.bits(scores.bytes_of(bits)) <= 8.0
    size = chosen(scores, now, size=0.0004)
    assert scores.sizes.total(scores.bytes_of(size)) <= 400_000
    assert budget_bytes(scores, bits=16, size=None) == scores.bytes_of(dict.fromkeys(scores.names, FLOAT))
    assert list(chosen(scores, now, level="L1").values()).count(FLOAT) in (1, 2, 3)


def test_a_search_finds_the_fewest_and_goes_on_where_it_stopped(scores: Scores, tmp_path: Path) -> None:
    start = dict.fromkeys(scores.names, scores.schemes[0].name)
    memory = tmp_path / "probes.json"
    asked: list[int] = []

    def measure(choice: Mapping[str, str]) -> tuple[float, float | None]:
        asked.append(sum(scheme == FLOAT for scheme in choice.values()))
        if len(asked) == 2 and not memory_used:
            raise KeyboardInterrupt
        return scores.kl_of(choice), None

    levels = [Search(scores, start, ("kl", 0.0), memory, []).choice(level) for level in range(5)]
    damage = [scores.kl_of(choice) for choice in levels]
    assert damage == sorted(damage, reverse=True)
    limit = damage[2] * 1.0001
    memory_used = False
    with pytest.raises(KeyboardInterrupt):
        Search(scores, start, ("kl", limit), memory, ["data"]).run(measure, lambda _probe, _left: None)
    memory_used = True
    search = Search(scores, start, ("kl", limit), memory, ["data"])
    assert list(search.probes) == [4]  # what was measured before it was stopped
    found = search.run(measure, lambda _probe, _left: None)
    assert found.level == 2 and found.kl <= limit
    assert len(asked) == len(set(asked)) + 1  # nothing is measured twice but the one that was cut off
    assert not Search(scores, start, ("kl", limit), memory, ["other data"]).probes
    with pytest.raises(ResultError, match="does not hold"):
        Search(scores, start, ("exact_match", 0.9), tmp_path / "none", []).run(lambda _c: (0.0, 0.5), lambda _p, _l: None)


def test_a_search_foretells_the_cache_that_every_level_has(scores: Scores, tmp_path: Path) -> None:
    recipe = edit.set_value(llmcompressor.load(RECIPE), "kv_type", "int")
    assert recipe.kv_cache is not None
    words = cache_words(recipe.kv_cache)
    names = [f"model.layers.0.self_attn.{one}_cache" for one in "kv"]
    rows = [Row(name, name, words, 0.5, 0.1, 0) for name in names]
    summed = Scores("exact", (*scores.rows, *rows), scores.schemes, scores.sizes, scores.meta)
    there = cached(summed, recipe)
    assert list(there) == names
    other = recipe.model_copy(update={"value_cache": recipe.kv_cache.model_copy(update={"type": "float"})})
    assert list(cached(summed, other)) == names[:1] and not cached(summed, llmcompressor.load(RECIPE))
    told: list[Probe] = []
    search = Search(summed, dict.fromkeys(scores.names, FLOAT), ("kl", 2.0), tmp_path / "probes.json", [], there)
    search.run(lambda _choice: (1.5, None), lambda probe, _: told.append(probe))
    assert [(probe.level, probe.foretold, probe.additivity) for probe in told] == [(0, 1.0, 1.5)]
    assert forecast(summed, recipe).kl == forecast(summed, llmcompressor.load(RECIPE)).kl + 1.0


def test_targets_are_read() -> None:
    assert parse_target("exact_match = 0.98") == ("exact_match", 0.98)
    assert parse_target("kl=0.05") == ("kl", 0.05)
    for wrong in ("kl", "kl=-1", "exact_match=98", "accuracy=0.5"):
        with pytest.raises(InputError, match="is no target"):
            parse_target(wrong)
