"""Calibration in which every modifier sees the whole model run anew, for models that cannot be taken layer by layer."""

from __future__ import annotations

from typing import Any

NAME = "whole_model"


def register() -> None:
    """Makes the pipeline known to the engine; imports it.

    The engine's "basic" pipeline runs all modifiers in one pass, so that ranges would be those from before outliers were moved.
    """
    from compressed_tensors.utils import patch_attr
    from llmcompressor.core import active_session
    from llmcompressor.pipelines.basic.pipeline import BasicPipeline
    from llmcompressor.pipelines.data_free.pipeline import DataFreePipeline
    from llmcompressor.pipelines.registry import CalibrationPipeline

    if NAME.replace("_", "-") in CalibrationPipeline.registered_names():
        return

    @CalibrationPipeline.register(NAME)
    class WholeModelPipeline(CalibrationPipeline):
        """One pass of the whole model for each modifier."""

        @staticmethod
        def __call__(model: Any, dataloader: Any, dataset_args: Any) -> None:
            recipe = active_session().lifecycle.recipe
            modifiers = recipe.modifiers
            with patch_attr(recipe, "modifiers", None):
                for modifier in modifiers:
                    recipe.modifiers = [modifier]
                    pipeline = BasicPipeline if modifier.requires_calibration_data else DataFreePipeline
                    pipeline()(model, dataloader, dataset_args)
