"""``GateBank``: a trained gate over some deltas, as it is stored and as the runtime uses it.

At every site and for every delta it has one vector ``(H1,)``: a token's logit for the delta is its
product with the linear's input (MeteoRA, arXiv 2405.13053). The vectors are bound to delta ids,
never to places. A delta stored later has none; Arrow's logit |h . core| stands in for it, brought
to the scale of the learned ones by two numbers a site, so that nothing is trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapterdb.errors import Corrupt, InvalidInput, Mismatch
from adapterdb.kernels import TokenGate
from adapterdb.layout import DeltaLayout
from adapterdb.records import check_int, check_number

KIND = "gate"  # of the shared part a home keeps it as


def site_slices(layout: DeltaLayout) -> list[slice]:
    """Where the vector of each site lies among the G numbers a delta has in a gate."""
    found, at = [], 0
    for site in layout.sites:
        found.append(slice(at, at + site.in_features))
        at += site.in_features
    return found


def gate_size(layout: DeltaLayout) -> int:
    """G: the inputs of all sites together."""
    return sum(site.in_features for site in layout.sites)


@dataclass(frozen=True)
class GateBank:
    """A trained gate.

    Args:
        ids: of the N deltas it has learned.
        vectors: ``(N, G)`` float32, sites in the order of the layout (``site_slices``).
        arrow: ``(sites, 2)`` float32, scale >= 0 and offset: ``scale * |h . core| + offset`` is
            the logit of a delta that is not among ``ids``.
        top_k, temperature: what it was trained with, and is to be used with.
        layout: fingerprint of the rows' layout.
    """

    ids: tuple[str, ...]
    vectors: Tensor
    arrow: Tensor
    top_k: int
    temperature: float
    layout: str

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids) or self.vectors.shape[:1] != (len(self.ids),):
            raise InvalidInput(
                f"a gate needs one vector for each of its deltas, all different: {len(self.ids)}"
                f" ids, vectors {tuple(self.vectors.shape)}"
            )
        check_int("gate: top_k", self.top_k, 1, 10**6)
        check_number("gate: temperature", self.temperature, 1e-6, 1e6)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything it holds."""
        digest = hashlib.sha256(json.dumps(self._facts()).encode())
        for tensor in (self.vectors, self.arrow):
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {delta_id: place for place, delta_id in enumerate(self.ids)}

    def index(self, delta_id: str) -> int | None:
        """The place of a delta's vectors; None if the gate has not learned it."""
        return self._places.get(delta_id)

    def known(self, delta_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Which of some deltas it has learned, and their vectors.

        Returns:
            bool ``(K,)``, and float32 ``(K, G)`` with zeros for those it hasn't.
        """
        places = [self.index(delta_id) for delta_id in delta_ids]
        learned = torch.tensor([place is not None for place in places], dtype=torch.bool)
        rows = self.vectors[[place or 0 for place in places]]
        return learned, rows * learned[:, None].to(rows)

    def unseen(self, cores: Tensor) -> tuple[Tensor, Tensor]:
        """How deltas without vectors take part.

        Args:
            cores: ``(..., sites, R)``, see ``adapterdb.prototype``.

        Returns:
            Cores to be used instead ``(..., sites, R)``, and the offset ``(sites,)`` of the logits.
        """
        return cores * self.arrow[:, :1].to(cores), self.arrow[:, 1]

    def token_gates(
        self,
        layout: DeltaLayout,
        delta_ids: Sequence[str],
        cores: Tensor | None = None,
        *,
        top_k: int | None = None,
        temperature: float | None = None,
    ) -> list[TokenGate]:
        """The gate of each site for one bank row with these K deltas: S = 1.

        Args:
            cores: ``(K, sites, R)`` of the deltas; only those that were not learned need theirs.
            top_k, temperature: instead of the gate's own.

        Raises:
            Mismatch: if the gate belongs to another layout.
            InvalidInput: if a delta was not learned and there are no cores.
        """
        self.check_layout(layout)
        learned, vectors = self.known(delta_ids)
        if cores is None and not learned.all():
            missing = delta_ids[int(learned.int().argmin())]
            raise InvalidInput(f"the gate has not learned delta {missing!r}: its cores are needed")
        device = self.vectors.device
        learned, one = learned.to(device), torch.ones(1, device=device)
        found = []
        for site, part in enumerate(site_slices(layout)):
            core = offset = None
            if cores is not None:
                scaled, offsets = self.unseen(cores.to(device))
                core, offset = scaled[None, :, site], offsets[site].expand(1, len(delta_ids))
            found.append(
                TokenGate(
                    live=torch.ones_like(learned)[None],
                    fixed=torch.zeros(1, dtype=torch.bool, device=device),
                    top_k=one.long() * (top_k or self.top_k),
                    temperature=one * (temperature or self.temperature),
                    cores=core,
                    vectors=vectors[None, :, part],
                    learned=learned[None],
                    offset=offset,
                )
            )
        return found

    def check_layout(self, layout: DeltaLayout) -> None:
        """Mismatch, unless the gate was trained over rows of ``layout``."""
        if self.layout != layout.fingerprint:
            raise Mismatch(
                f"the gate is of layout {self.layout[:12]}, these rows of"
                f" {layout.fingerprint[:12]}",
                code="layout_mismatch",
                hint="train it anew: adb train gate",
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """What ``from_tensors`` reads."""
        facts = torch.frombuffer(bytearray(json.dumps(self._facts()).encode()), dtype=torch.uint8)
        return {"vectors": self.vectors, "arrow": self.arrow, "facts": facts}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> GateBank:
        """The gate that ``to_tensors`` gave.

        Raises:
            Corrupt: if something is missing.
        """
        try:
            facts = json.loads(bytes(tensors["facts"].tolist()))
            return cls(
                tuple(facts["ids"]), tensors["vectors"].float(), tensors["arrow"].float(),
                facts["top_k"], facts["temperature"], facts["layout"],
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise Corrupt(
                f"the stored gate can't be read: {error}", hint="train it again: adb train gate"
            ) from error

    def _facts(self) -> dict[str, object]:
        return {
            "ids": list(self.ids), "top_k": self.top_k, "temperature": self.temperature,
            "layout": self.layout,
        }  # fmt: skip
