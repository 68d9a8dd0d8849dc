"""A GPU that is none: numbers stay in the computer's memory, and PyTorch's rules for devices hold.

Inside `fake_gpu` a tensor that was made with `device="cuda"`, or moved there, says so, and what
real devices refuse is refused here: an operation on tensors of two devices (but for single numbers,
and for indices from the CPU), a generator of another device, `.numpy()`. What makes the computer
wait for a GPU (`.item()`, `.cpu()`, a truth value) is counted. The arithmetic is the CPU's, so that
results are its own but for the size of batches; nothing is shown of a GPU's own rounding, kernels,
speed and memory.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

# Operations that take a CPU's indices on a GPU's tensor.
_INDEXING = ("index.", "index_put", "_index_put_impl_", "_unsafe_index")
# Operations that do not even take a CPU's single numbers.
_STRICT = (
    *(
        "cat.",
        "stack.",
        "index_select",
        "gather",
        "scatter",
        "embedding",
        "index_copy",
        "index_add",
    ),
    *("take_along_dim", "bincount", "searchsorted"),
)
# What tells numbers, or as many results as the numbers say, so that the CPU has to wait.
_WAITING = ("_local_scalar_dense", "equal.", "is_nonzero", "nonzero.", "_unique", "masked_select")
_MOVES = {"to", "cpu", "cuda", "as_tensor", "asarray"}
_GRADIENTS = {
    "grad": (torch.autograd.grad,),
    "backward": (Tensor.backward, torch.autograd.backward),
}
_TO_NUMPY = {"numpy", "__array__", "__dlpack__"}


class DeviceError(RuntimeError):
    """What PyTorch would have refused on a real device."""


class _Mark(torch.autograd.Function):
    """A copy on the other device, whose gradient comes back the same way."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gpu: bool) -> Tensor:
        ctx.gpu = gpu
        return _put(value, gpu)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _put(grads[0], not ctx.gpu), None


def _put(value: Tensor, gpu: bool) -> Tensor:
    with _plain():
        copied = value.detach().clone(memory_format=torch.preserve_format)
    return _mark(copied, gpu)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Inside, nothing of this module looks on."""
    with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
        yield


def _tensors(*left: Any) -> list[Tensor]:
    """Those in lists, tuples and dictionaries: asked for at each operation, so that a generator, or
    PyTorch's own way, would be most of the work."""
    found, values = [], list(left)
    for value in values:  # which grows
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, dict):
            values += value.values()
    return found


def _storage(value: object) -> Any:
    """Where a tensor's numbers lie, which notes the device; None for what has no such place."""
    if not isinstance(value, Tensor):
        return None
    if functorch.peek_interpreter_stack() is not None:
        while functorch.is_functorch_wrapped_tensor(value):
            value = functorch.get_unwrapped(value)
    try:
        return value.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse, or of no memory
        return None


def _place(value: object) -> bool | None:
    """Whether this is on the GPU that is none; None for what PyTorch makes where it is needed."""
    place: bool | None = getattr(_storage(value), "on_fake_gpu", False)
    return place


def on_gpu(value: object) -> bool:
    """Whether this is a tensor on the GPU that is none."""
    return bool(_place(value))


def _is_anywhere(value: object) -> bool:
    return _place(value) is None


def _mark(value: Any, gpu: bool | None = True) -> Any:
    """Note where a tensor is; None is for what PyTorch makes where it is needed."""
    place = _storage(value)
    if place is not None and place.device.type == "cpu":
        place.on_fake_gpu = gpu
    return value


def _marked(result: Any, gpu: bool | None = True) -> Any:
    for value in _tensors(result):
        _mark(value, gpu)
    return result


@functools.cache
def _named(func: Any) -> str:
    """What the tables above call an operation."""
    return str(func._schema.name).removeprefix("aten::") + "."


def _asked(value: object) -> bool | None:
    """Whether an argument names the GPU (True), the CPU (False), or no device."""
    if isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"):
        return value.startswith("cuda")
    if isinstance(value, torch.device) and value.type in ("cuda", "cpu"):
        return value.type == "cuda"
    return None


class _Rules(TorchDispatchMode):
    """Each operation, those of backward passes too."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        if not given and self.inside:
            # What PyTorch makes where the rest is: zeros of gradients, of one-hot vectors.
            return _marked(func(*args, **kwargs), None)
        places = list(map(_place, given))
        if True not in places:
            return func(*args, **kwargs)
        name = _named(func)
        if name.startswith("copy_"):
            if on_gpu(args[0]) != on_gpu(args[1]):
                self.seen.moved(args[1])
            return func(*args, **kwargs)
        if False in places:
            looked = given
            if name.startswith(_INDEXING) and on_gpu(args[0]):
                looked = _tensors(args[2:])
            strict = name.startswith(_STRICT)
            for value in looked:
                if (
                    _place(value) is False
                    and value.device.type == "cpu"
                    and (strict or value.dim() > 0)
                ):
                    raise DeviceError(
                        f"{func}: Expected all tensors to be on the same device, but found at "
                        "least two devices, cuda:0 and cpu!"
                    )
        if name.startswith(_WAITING):
            self.seen.waits[name] += 1
        result = func(*args, **kwargs)
        return _marked(result)


class _Devices(TorchFunctionMode):
    """What Python code asks of tensors: where they are, and to be elsewhere."""

    def __init__(self, seen: Seen, rules: _Rules) -> None:
        super().__init__()
        self.seen = seen
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args, kwargs)
        if name == "_parse_to":
            return func(*args, **kwargs)
        here = bool(args) and on_gpu(args[0])
        if name in _TO_NUMPY and here:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        if name == "pin_memory":
            return args[0]
        if name == "tolist" and here:
            self.seen.waits["tolist"] += 1
            with _plain():
                return func(*args)
        if name == "get_device":
            return 0 if here else -1
        if name == "register_hook" and len(args) > 1:
            # Called by the backward pass, which runs with the rules alone.
            return func(args[0], self._with_devices(args[1]), *args[2:], **kwargs)
        if name in _GRADIENTS and func in _GRADIENTS[name]:
            return self._gradients(func, args, kwargs)
        asked, given, named = self._asked(name, args, kwargs)
        if name in _MOVES and args and isinstance(args[0], Tensor):
            return self._moved(func, name, given, named, asked)
        if kwargs.get("generator") is not None and (here if asked is None else asked):
            # Those of a GPU cannot be had here, and numbers drawn there are not a CPU's.
            raise DeviceError("Expected a 'cuda' device type for generator but found 'cpu'")
        inside = any(map(on_gpu, _tensors(given, named)))
        self.rules.inside += inside
        try:
            result = func(*given, **named)
        finally:
            self.rules.inside -= inside
        if asked is None and name.startswith("new_"):
            asked = here
        if asked is None and inside:
            for value in filter(_is_anywhere, _tensors(result)):
                _mark(value)
        return result if asked is None else _marked(result, asked)

    def _asked(self, name: str, args: Any, kwargs: Any) -> tuple[bool | None, Any, Any]:
        """The device that is asked for, and the arguments with the CPU in its place."""
        asked = None
        given, named = args, kwargs
        if "device" in named:
            asked = _asked(named["device"])
            if asked:
                named = {**named, "device": CPU}
        elif name == "to":
            given = list(args)
            for index, value in enumerate(given[1:], 1):
                if _asked(value) is not None:
                    asked = _asked(value)
                    given[index] = CPU
                elif isinstance(value, Tensor):
                    asked = on_gpu(value)
        elif name in ("cpu", "cuda"):
            asked = name == "cuda"
        return asked, given, named

    def _moved(self, func: Any, name: str, given: Any, named: Any, asked: bool | None) -> Any:
        value = given[0]
        if name == "cuda":
            func, given, named = Tensor.to, [value, CPU], {}
        if asked is None or asked == on_gpu(value):
            result = func(*given, **named)
            return result if asked is None or result is value else _mark(result, asked)
        self.seen.moved(value)
        moved = _Mark.apply(value, asked)
        result = func(moved, *given[1:], **named)
        return result if result is moved else _mark(result, asked)

    def _gradients(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.rules.inside += 1
        try:
            found = func(*args, **kwargs)
        finally:
            self.rules.inside -= 1
        if func is torch.autograd.grad:
            inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
            inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
            for value, one in zip(found, inputs, strict=True):
                if on_gpu(value) != on_gpu(one) and value is not None:
                    assert _is_anywhere(value), "a gradient has come to another device"
                    _mark(value, on_gpu(one))
        return found

    def _attribute(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.__self__.__name__
        if name not in ("device", "is_cuda", "is_cpu"):
            return func(*args, **kwargs)
        if name == "device" and on_gpu(args[0]):
            return GPU
        if name == "is_cuda":
            return on_gpu(args[0])
        if name == "is_cpu":
            return not on_gpu(args[0]) and func(*args)
        return func(*args, **kwargs)

    def _with_devices(self, hook: Any) -> Any:
        @functools.wraps(hook)
        def wrapped(*args: Any) -> Any:
            with self:
                return hook(*args)

        return wrapped


class _Event:
    """An event whose time is that of the computer: nothing here runs behind its back."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _Event) -> float:
        return 1000 * (later.at - self.at)


class Seen:
    """What a GPU would have had to be waited for.

    Attributes:
        waits: how often, by what was asked.
        synchronized: how often it was waited for on purpose.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.synchronized = 0

    def moved(self, value: Tensor) -> None:
        self.waits["to the CPU" if on_gpu(value) else "to the GPU"] += 1


@contextlib.contextmanager
def fake_gpu(free: int = 4 << 30) -> Iterator[Seen]:
    """Inside, there is one GPU, `cuda:0`, with so many bytes of free memory."""
    seen = Seen()

    def synchronize(*_: Any) -> None:
        seen.synchronized += 1

    one = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "mem_get_info": lambda *_: (free, free),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "set_per_process_memory_fraction": lambda *_: None,
        "synchronize": synchronize,
        "get_device_name": lambda *_: "no GPU (faked)",
        "get_device_capability": lambda *_: (9, 0),
        "Event": _Event,
        "manual_seed_all": lambda *_: None,
    }
    with contextlib.ExitStack() as stack:
        for name, value in one.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        rules = stack.enter_context(_Rules(seen))
        stack.enter_context(_Devices(seen, rules))
        yield seen


# A model's identity counts modes of others as changes; these change nothing that is computed.
for _mode in (_Rules, _Devices):
    _mode.__module__ = "torch"
