"""Gathers what hooks see into sites: one sample at a time, and a tensor several layers share is looked at once."""

from __future__ import annotations

import math
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantui.errors import ResultError
from quantui.stats.detail import Detail, spread
from quantui.stats.reduce import reduce_rows
from quantui.stats.site import Entry, Part, Role, Site
from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor


class NotFiniteError(ResultError):
    """An activation is NaN or infinite.

    Attributes:
        layer: the module whose tensor it is.
        sample: number of the sample, from 0.
        token: its position in the sample, -1 if the rows are no tokens.
    """

    def __init__(self, what: str, *, layer: str, sample: int, token: int, where: str) -> None:
        super().__init__(what, where=where, todo="leave the sample out, skip such samples, or run the model in a wider dtype")
        self.layer, self.sample, self.token = layer, sample, token


class _Seen(NamedTuple):
    reference: weakref.ref[Any]
    version: int
    site: Site


class Collector:
    """Statistics of a run, in the making.

    Args:
        detail: whether distributions and moments of every tensor are gathered; keys and values always get moments.
        decoder: prefix of the modules whose rows are text tokens; "" if all are.
        wheres: where each sample came from, for messages.

    Attributes:
        seconds: what looking at tensors took; on a device that works ahead of the program, less than the device's own time.
        sites: by entry, in the order the forward pass first reached them; entries that share a tensor share the site.
    """

    def __init__(self, *, detail: bool = False, decoder: str = "", wheres: list[str] | None = None) -> None:
        self.detail, self._decoder, self._wheres = detail, decoder, wheres or []
        self.sites: dict[Entry, Site] = {}
        self.sample, self._length, self._turn = -1, 0, 0
        self.seconds = 0.0
        self._memo: dict[int, _Seen] = {}
        self._pending: list[tuple[Site, Part]] = []
        self._touched: set[int] = set()
        self._met: set[Entry] = set()
        self._new: list[Entry] = []

    def begin(self, sample: int, length: int) -> None:
        """A forward pass of one sample of `length` tokens begins."""
        self.sample, self._length = sample, length
        self._turn += 1
        self.drop()

    def drop(self) -> None:
        """Forgets what the current sample had."""
        for entry in self._new:
            if self.sites[entry].count == 0:
                del self.sites[entry]
        self._end()

    def commit(self) -> None:
        """Adds what the current sample had."""
        for site in {self.sites[entry] for entry in self._met}:
            for entry in sorted(site.entries - self._met):
                self.sites[entry] = site.copy(entry)  # it sat out while those it shared with did not
        for site, part in self._pending:
            site.add(part, self.sample)
        self._end()

    def _end(self) -> None:
        self._memo.clear()
        self._pending.clear()
        self._touched.clear()
        self._met.clear()
        self._new.clear()

    def see(
        self,
        name: str,
        role: Role,
        x: Tensor,
        *,
        rows: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        """Looks at a tensor.

        Args:
            name: of the module.
            role: which of its tensors.
            x: the tensor as the module has it, any shape with the channels last; known again by its identity.
            rows: the same as (rows, channels), where that is not x with its leading axes joined.
            shape: of the channels, where it is not one axis.
            tokens: (rows,) token position of each row, where rows are a choice of tokens.
        """
        if x.numel() == 0 or not x.is_floating_point():
            return
        entry = (name, role)
        began = time.perf_counter()
        if self._shared(entry, x) is not None:
            return
        flat = x.reshape(-1, x.shape[-1]) if rows is None else rows
        site = self._own(entry, flat, shape)
        part = self._look(entry, site, flat.detach() if flat.requires_grad else flat, tokens)
        self._pending.append((site, part))
        self._touched.add(id(site))
        self._met.add(entry)
        self._memo[id(x)] = _Seen(weakref.ref(x), _version(x), site)
        self.seconds += time.perf_counter() - began

    @property
    def nbytes(self) -> int:
        """Bytes held now, of a sample not yet added too."""
        kept = sum(site.nbytes for site in {id(site): site for site in self.sites.values()}.values())
        return kept + sum(part.nbytes for _, part in self._pending)

    def _shared(self, entry: Entry, x: Tensor) -> Site | None:
        """The site that has looked at this very tensor in this turn, if the entry may share it."""
        seen = self._memo.get(id(x))
        if seen is None or seen.reference() is not x or seen.version != _version(x):
            return None
        known = self.sites.get(entry)
        if known is None and seen.site.turn == self._turn:
            self._keep(entry, seen.site)  # both are new, so they have seen the same so far
        elif known is not seen.site:
            return None
        self._met.add(entry)
        return seen.site

    def _own(self, entry: Entry, flat: Tensor, shape: tuple[int, ...] | None) -> Site:
        site = self.sites.get(entry)
        if site is not None and id(site) in self._touched and entry not in self._met:
            site = self.sites[entry] = site.copy(entry)  # it shared a tensor with another entry until now
        if site is None:
            four = self.detail
            detail = Detail(four=four) if four or entry[1] in ("key", "value") else None
            text = not self._decoder or entry[0].startswith(self._decoder) or "." not in entry[0]
            site = Site(shape or (flat.shape[1],), on_tokens=text, turn=self._turn, detail=detail)
            self._keep(entry, site)
        return site

    def _keep(self, entry: Entry, site: Site) -> None:
        self.sites[entry] = site
        site.entries.add(entry)
        self._new.append(entry)

    def _look(self, entry: Entry, site: Site, flat: Tensor, tokens: Tensor | None) -> Part:
        detail = site.detail
        shift = detail.around(flat) if detail is not None else None
        found = reduce_rows(flat, site.extremes, shift, four=detail is not None and detail.four)
        peak = float(np.maximum.reduce(found.extremes, axis=None))
        if not math.isfinite(peak):  # nothing else hides there: the smallest are negated
            raise self._not_finite(entry, flat, site, tokens)
        places = self._places(found.rows, flat.shape[0], site, tokens)
        counted = spread(flat, peak, self.sample) if detail is not None and detail.four else None
        again = id(site) in self._touched
        values = found.extremes.ravel()[found.beaten]
        return Part(found.beaten, values, places, found.sums, found.number, found.powers, counted, again)

    def _places(self, rows: Array, count: int, site: Site, tokens: Tensor | None) -> Array:
        """Token positions of rows: given, one row a token, several rows a token, or not known."""
        if tokens is not None:
            return np.asarray(tokens.cpu())[rows]
        if not site.on_tokens or count == self._length:
            return rows
        if self._length and count % self._length == 0:
            return rows // (count // self._length)
        return np.full_like(rows, -1)

    def _not_finite(self, entry: Entry, flat: Tensor, site: Site, tokens: Tensor | None) -> NotFiniteError:
        import torch

        bad = ~torch.isfinite(flat)
        row = int(bad.any(1).to(torch.uint8).argmax())
        channel = int(bad[row].to(torch.uint8).argmax())
        token = int(self._places(np.array([row]), flat.shape[0], site, tokens)[0])
        kind = "NaN" if bool(torch.isnan(flat[row, channel])) else "infinite"
        place = f"token {token}" if token >= 0 and site.on_tokens else f"row {row}"
        what = f"{entry[0]} has {kind} in its {entry[1]}, channel {channel}, at {place} of sample {self.sample}"
        where = self._wheres[self.sample] if 0 <= self.sample < len(self._wheres) else f"sample {self.sample}"
        return NotFiniteError(what, layer=entry[0], sample=self.sample, token=token, where=where)


def _version(x: Tensor) -> int:
    """How often it was written to; inference tensors do not count that."""
    return 0 if x.is_inference() else int(x._version)
