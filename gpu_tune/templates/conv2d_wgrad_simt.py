"""Gradient of a convolution's filters on the plain arithmetic units: every wgrad, every device. The fallback.

For each group a product of filters x (taps and channels of a filter), over all pixels of dy; x is gathered as it is
read. With ``split_k`` > 1 the sums of parts of the pixels go to the workspace, and a second kernel adds them in order:
the same bits in every run. Sums are float32 (int32 for int8 data).
"""

from __future__ import annotations

from .base import Template
from .lib.knobs import WGRAD_SPLIT_K
from .lib.simt.backward import launch, seeds
from .lib.simt.backward.constraints import CONSTRAINTS, supports
from .lib.simt.backward.derived import derive

TEMPLATE: Template = Template(
    name="conv2d_wgrad_simt",
    op="conv2d",
    summary="gradient of the filters on plain arithmetic units, every stride, layout, dtype, filter and group",
    knobs=launch.knobs("filters", "taps and channels of a filter", "pixels of dy", WGRAD_SPLIT_K),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_wgrad_simt", c, w, d),
    plan=lambda c, w, d: launch.plan("conv2d_wgrad_simt", c, w, d),
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    directions=("wgrad",),
)
