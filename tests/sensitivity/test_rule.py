"""msModelSlim's ranking against its formulas, written out once more over everything at once."""

from __future__ import annotations

import pytest

from quantui.sensitivity.rule import at_level, by_equal_score

pytestmark = pytest.mark.engine


def test_scores_are_those_of_its_formulas() -> None:
    import torch

    from quantui.sensitivity.rule import InputScores

    generator = torch.Generator().manual_seed(0)
    samples = [torch.randn(1, length, 24, generator=generator) ** 3 + 0.5 for length in (30, 7, 55)]
    seen = InputScores()
    for sample in samples:
        seen.see(sample)
    found = seen.scores()
    flat = [sample.reshape(-1, 24) for sample in samples]
    most = max(float(rows.abs().max()) for rows in flat)
    shifts = [rows.amax(0) + rows.amin(0) for rows in flat]
    assert found["std"] == pytest.approx(most / max(float((r - s).std()) for r, s in zip(flat, shifts, strict=True)), rel=1e-6)
    halved = max(float((r - s / 2).std()) for r, s in zip(flat, shifts, strict=True))
    assert found["std_halved"] == pytest.approx(most / halved, rel=1e-6)
    thinned = torch.cat([rows.flatten().sort()[0][50::100] for rows in flat]).double()
    quarters = torch.quantile(thinned, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert found["quantile"] == pytest.approx(2 * float(thinned.abs().max()) / 254 / float(quarters[1] - quarters[0]), rel=1e-6)
    centred = thinned - thinned.mean()
    assert found["kurtosis"] == pytest.approx(float((centred**4).mean() / (centred**2).mean() ** 2) - 3, rel=1e-6)


def test_few_values_are_taken_whole_and_nothing_scores_nothing() -> None:
    import torch

    from quantui.sensitivity.rule import InputScores

    few = InputScores()
    few.see(torch.arange(10.0).reshape(5, 2))
    assert len(few.thinned[0]) == 10
    assert set(InputScores().scores().values()) == {0.0}
    constant = InputScores()
    constant.see(torch.ones(4, 3))
    assert constant.scores()["quantile"] == 0.0


def test_levels_count_single_layers_and_keep_ties_in_order() -> None:
    scores = {"q": 5.0, "k": 5.0, "v": 5.0, "o": 1.0, "gate": 7.0, "up": 7.0, "head": 99.0}
    assert at_level(scores, 0) == []
    assert at_level(scores, 1, already=["head"]) == ["gate"]  # parted from up, as there
    assert at_level(scores, 3, already=["head"]) == ["gate", "up", "q"]
    assert at_level(scores, 99, already=["head"]) == ["gate", "up", "q", "k", "v", "o"]
    assert by_equal_score(scores, 2) == ["head", "gate", "up"]
    assert by_equal_score(scores, 0) == []
