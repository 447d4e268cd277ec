"""Datasets of the hub that calibrations are commonly made of, each with its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

PARQUET = "refs/convert/parquet"
"""Where the hub keeps the tables of datasets that were published with a loading script."""


@dataclass(frozen=True)
class Preset:
    """A dataset of the hub.

    Attributes:
        columns: our name of a column to its name there.
        pictures: whether its rows are pictures with a text.
        data_files: files to read where the dataset as a whole is too large.
        revision: a branch other than the main one.
    """

    id: str
    split: str
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False
    data_files: str | None = None
    revision: str | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "ultrachat_200k": Preset("HuggingFaceH4/ultrachat_200k", "train_sft", columns={"messages": "messages"}),
        "flickr30k": Preset("lmms-lab/flickr30k", "test", columns={"image": "image", "answer": "caption"}, pictures=True),
        "textvqa": Preset("lmms-lab/textvqa", "validation", columns={"image": "image", "question": "question"}, pictures=True),
        "c4": Preset("allenai/c4", "train", columns={"text": "text"}, data_files="en/c4-train.00000-of-01024.json.gz"),
        "wikitext2": Preset("Salesforce/wikitext", "train", config="wikitext-2-raw-v1", columns={"text": "text"}),
        "pileval": Preset("mit-han-lab/pile-val-backup", "validation", columns={"text": "text"}),
        "ptb": Preset("ptb-text-only/ptb_text_only", "train", "penn_treebank", {"text": "sentence"}, revision=PARQUET),
    }
)
"""By the names the peers use. Ids as on the Hugging Face Hub; a gated or moved one says so when it is fetched."""
