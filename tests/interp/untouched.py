"""Whether an instrument has left a model as it found it."""

from __future__ import annotations

from tests.interp.tiny import Tiny


def untouched(tiny: Tiny) -> bool:
    """No hook is left anywhere, and no module runs anything but its own code."""
    model = tiny.model.bridge
    hooks = any(point.fwd_hooks for point in model.hook_dict.values())
    torch_hooks = any(block._forward_pre_hooks for block in model.blocks)
    wrapped = any("forward" in module.__dict__ for module in model.blocks.modules())
    return not (hooks or torch_hooks or wrapped)
