"""The gradients of a convolution as PyTorch computes them: ``aten::convolution_backward`` on the caller's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...workload import Conv2d


def gradient(torch: Any, w: Conv2d, x: Mapping[str, Any]) -> Any:
    """What direction dgrad or wgrad of ``w`` computes of the tensors ``x``, channels first, before scales and beta.

    The operand that is not wanted is a tensor without memory of its own, as in ``torch.nn.grad``. PyTorch has no uneven
    padding: the image is padded before, or its gradient cut out of that of the padded image.
    """
    nhwc, (top, bottom, left, right) = w.layout == "nhwc", w.padding
    first, second = (x[n].permute(0, 3, 1, 2) if nhwc else x[n] for n in w.inputs)
    even = (top, left) == (bottom, right)
    padding = (top, left) if even else (0, 0)
    h, width = (w.h, w.w) if even else (w.h + top + bottom, w.w + left + right)

    def blank(*shape: int) -> Any:
        return first.new_empty(1).expand(shape)

    if w.direction == "dgrad":
        image, filters = blank(w.n, w.c, h, width), second
    else:
        image = second if even else torch.nn.functional.pad(second, (left, right, top, bottom))
        filters = blank(w.k, w.c // w.groups, w.r, w.s)
    wanted = (w.direction == "dgrad", w.direction == "wgrad", False)
    options = (list(w.stride), list(padding), list(w.dilation), False, [0, 0], w.groups, wanted)
    found = torch.ops.aten.convolution_backward(first, image, filters, None, *options)
    if w.direction == "wgrad":
        return found[1]
    return found[0] if even else found[0][:, :, top : top + w.h, left : left + w.w]
