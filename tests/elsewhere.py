"""A device that is not there: its tensors say that they are on it, and are computed on the CPU.

What mixes devices fails, as it would on a GPU; copies from and to the host, and what waits for the
device, are noted; and results are those of the CPU. Torch makes room for one device of other
people's, and this is it: as long as the process lives, torch has an accelerator. What it cannot
show: kernels that a GPU lacks, precision, speed, and what torch does on CUDA only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

_COPIES = ("_copy_from", "_to_copy", "copy_")
_UNIQUE = ("_unique2", "unique_consecutive", "unique_dim", "unique_dim_consecutive")
_SELECTING = ("bincount", "masked_select", "nonzero")
_WAITING = ("_local_scalar_dense", "allclose", "equal", *_SELECTING, *_UNIQUE)
_INDEXING = ("index", "index_put_", "_index_put_impl_")
_JOINING = ("cat", "stack")  # which take no scalar from the host, either

_seen: list[str] = []
_dice: list[torch.Generator] = []
_GENERATOR = torch.Generator


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any) -> Tensor:  # its dice are the CPU's
        return torch.empty(0)

    def set_rng_state(self, state: Tensor, device: Any) -> None:
        pass


backend_registration._setup_privateuseone_for_python_backend("elsewhere", backend_module=_Module())
DEVICE = torch.device("elsewhere", 0)


class _There(Tensor):
    """Wraps a tensor of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_There":
        found: _There = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        found.inner = inner
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def moving() -> Iterator[None]:
    """Within, ``module.to(DEVICE)`` keeps its parameters the same objects, as on a GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def generator(device: Any = "cpu") -> torch.Generator:
    """In place of ``torch.Generator``, which has none for this device."""
    made = _GENERATOR()
    if torch.device(device).type == DEVICE.type:
        _dice.append(made)
    return made


@contextmanager
def watched() -> Iterator[list[str]]:
    """What the host did with the device within: ``to``, ``from``, or what it has waited for."""
    _seen.clear()
    yield _seen


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, to = func.overloadpacket.__name__, kwargs.get("device")
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, _There)]
    here = [each for each in tensors if not isinstance(each, _There)]
    stays = bool(there) if name not in _COPIES else isinstance(args[0], _There)
    goes_there = stays if to is None else torch.device(to).type == DEVICE.type
    if goes_there:
        _require_dice(kwargs.get("generator"))
    if name in _COPIES:
        source = args[1] if name == "copy_" else args[0]
        if isinstance(source, _There) != goes_there:
            _seen.append("to" if goes_there else "from")
    elif there:
        _note(name, args, kwargs, here)
    plain_args, plain = pytree.tree_map_only(_There, lambda each: each.inner, (args, kwargs))
    if to is not None:
        plain = {key: each for key, each in plain.items() if key != "pin_memory"}
        plain["device"] = "cpu"
    found = func(*plain_args, **plain)
    if name == "_to_copy" and any(found is each.inner for each in there):
        found = found.clone()
    if goes_there:
        found = pytree.tree_map_only(Tensor, _There, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if there else found


def _require_dice(given: torch.Generator | None) -> None:
    """Refuse a generator of the host's; the global one stands for the device's own."""
    if given is None:
        return
    known = {each._cdata for each in (torch.default_generator, *_dice)}  # objects are made anew
    if given._cdata not in known:
        raise RuntimeError("expected a generator of the device")


def _note(name: str, args: Any, kwargs: dict[str, Any], here: list[Tensor]) -> None:
    """Refuse what a GPU would, where tensors lie here and there; scalars mostly may."""
    several = [each for each in here if each.dim() or name in _JOINING]
    indices = args[1] if name in _INDEXING and isinstance(args[0], _There) else ()
    if any(each is index for each in several for index in indices):
        _seen.append("to")
        several = [each for each in several if not any(each is index for index in indices)]
    if several:
        raise RuntimeError(f"{name}: expected all tensors on one device")
    masks = [each for each in indices if isinstance(each, Tensor) and each.dtype == torch.bool]
    counts = name == "repeat_interleave" and kwargs.get("output_size") is None
    if name in _WAITING or masks or counts:
        _seen.append(name)


def _made(func: Any) -> Any:
    return lambda *args, **kwargs: _run(func, args, {**kwargs, "device": DEVICE})


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _run(torch.ops.aten.copy_.default, (target, source), {})
    return target


# What is made from nothing has no tensor that could tell where.
_LIBRARY = torch.library.Library("aten", "IMPL")
_ATEN = torch.ops.aten
for _func in (
    _ATEN.empty.memory_format,
    _ATEN.empty_strided.default,
    _ATEN.arange.default,
    _ATEN.arange.start,
    _ATEN.arange.start_step,
    _ATEN.eye.default,
    _ATEN.linspace.default,
    _ATEN.randperm.default,
    _ATEN.randperm.generator,
):
    _LIBRARY.impl(_func.name().removeprefix("aten::"), _made(_func), "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
