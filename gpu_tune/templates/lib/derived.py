"""What a source sees of a config: layout, storage, pipeline and launch, which every family derives in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .common import STATIC_LIMIT
from .partial_sums import PartialSums

LayoutT = TypeVar("LayoutT")
StorageT = TypeVar("StorageT")
PipelineT = TypeVar("PipelineT")
LaunchT = TypeVar("LaunchT")


@dataclass(frozen=True)
class DerivedOf(Generic[LayoutT, StorageT, PipelineT, LaunchT]):
    """All that a source sees as ``launch``.

    ``config``: the config; a family that borrows parts of another one adds knobs that are no choice of its own.
    """

    config: Mapping[str, Any]
    layout: LayoutT
    storage: StorageT
    pipeline: PipelineT
    launch: LaunchT


@dataclass(frozen=True)
class SharedStorage:
    """``shared_bytes`` of shared memory a block; ``wide_out``: offsets of results need 64 bits; ``sums``: what the
    kernel leaves for dbias; ``byte_lanes``: see :mod:`.mask_bits`."""

    shared_bytes: int
    wide_out: bool
    sums: PartialSums | None = None
    byte_lanes: int = 0

    @property
    def dynamic(self) -> bool:
        """Whether that is more than a kernel may declare statically."""
        return self.shared_bytes > STATIC_LIMIT
