"""The base weights in the precision of an autocast, once instead of at every product.

Autocast keeps the casts of weights that learn; those of a frozen base it makes again in each
forward. The products are bit for bit the same either way. Attention that will be differentiated on
a CPU stays in float32: its bfloat16 backward is up to three times slower there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adapterdb.training.head import answering


class _WideAttention(TorchFunctionMode):
    """Attention in float32 wherever it has a backward."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention or not torch.is_grad_enabled():
            return func(*args, **given)
        query, *others = args
        if not query.requires_grad:
            return func(*args, **given)
        mask = given.get("attn_mask")
        if mask is not None and mask.is_floating_point():
            given = {**given, "attn_mask": mask.float()}
        with torch.autocast("cpu", enabled=False):
            wide = func(query.float(), *(other.float() for other in others), **given)
        return wide.to(torch.get_autocast_dtype("cpu"))


class _Cast(NamedTuple):
    """A linear's weight and bias in another precision, and what they were cast from."""

    source: tuple[Any, ...]
    weight: Tensor
    bias: Tensor | None


_casts: WeakKeyDictionary[nn.Module, _Cast] = WeakKeyDictionary()


@contextmanager
def cast_once(model: nn.Module) -> Iterator[None]:
    """``model`` with its frozen float32 linears in the precision of the autocast around, if any.

    The casts are kept beside the model: half its size in float32.
    """
    kind = next(model.parameters()).device.type
    with ExitStack() as stack:
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            for module in model.modules():
                if type(module) is nn.Linear and _frozen(module):
                    stack.enter_context(answering(module, _forward(_cast(module, dtype))))
            if kind == "cpu":
                stack.enter_context(_WideAttention())
        yield


def _frozen(module: nn.Linear) -> bool:
    return module.weight.dtype == torch.float32 and not module.weight.requires_grad


def _cast(module: nn.Linear, dtype: torch.dtype) -> _Cast:
    weight, bias = module.weight, module.bias
    source = (dtype, weight.data_ptr(), weight._version, None if bias is None else bias._version)
    known = _casts.get(module)
    if known is None or known.source != source:
        known = _Cast(
            source, weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
        )
        _casts[module] = known
    return known


def _forward(cast: _Cast) -> Callable[[Tensor], Tensor]:
    return lambda x: F.linear(x, cast.weight, cast.bias)
