"""What the package uses of torch beyond its public API: each name once, with what to do when it changes.

Everything else in the package uses public names. A version of torch that moves one of these breaks a test of the
function here that calls it, and only this file has to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode


def derivatives_are_watched() -> bool:
    """Whether forward-mode derivatives or a function transform of ``torch.func`` are active.

    torch has no public test for either. If both are gone: answer True. `invert` then always goes the way that is
    right for every derivative, and is slower where none is asked for.
    """
    return forward_ad._current_level >= 0 or _functorch.peek_interpreter_stack() is not None


def traced(function: Callable[..., Any], examples: Sequence[Any], symbolic: bool) -> torch.fx.GraphModule:
    """A function with its derivatives as one graph of elementary operations.

    ``make_fx`` is experimental, and the only tracer that records the gradients that a function takes inside.
    ``torch.export`` refuses them; as soon as it does not, it can trace the potential itself.
    """
    # half a second that nothing else needs
    from torch.fx.experimental.proxy_tensor import make_fx

    graph: torch.fx.GraphModule = make_fx(
        # torch wants a function of its own kind
        lambda *inputs: function(*inputs),
        tracing_mode="symbolic" if symbolic else "real",
        _allow_non_fake_inputs=True,
    )(*examples)
    return graph


def compiler_command() -> str:
    """The C++ compiler that Inductor would call; raises an error of torch's own if there is none.

    If it is gone: the variable ``CXX``, or the first of g++ and clang++ that there is.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    return get_cpp_compiler()


def compiled_files(program: torch.fx.GraphModule, examples: Sequence[Tensor], options: dict[str, Any]) -> list[str]:
    """What Inductor makes of a graph ahead of time: the files of a package.

    The public ``torch._inductor.aoti_compile_and_package`` makes a package of one function alone, and ours have several
    that share a file. If it learns to take more, it replaces this and `write_package`.
    """
    return cast("list[str]", torch._inductor.aot_compile(program, tuple(examples), options=options))


def write_package(path: Path, files: dict[str, list[str]], extra: dict[str, str]) -> None:
    """One package of the files of several functions, and of texts beside them; see `compiled_files`."""
    from torch.export.pt2_archive._package import package_pt2

    package_pt2(str(path), aoti_files=files, extra_files=extra)  # type: ignore[arg-type]


def loaded_function(path: Path, name: str, device: torch.device) -> Any:
    """A compiled function of a package, to be called with ``run``.

    The public ``torch._inductor.aoti_load_package`` shares the work of one configuration among threads; here it is said
    to use one runner and one thread. If the class is gone, the public function gives the same numbers.
    """
    # on a GPU without the synchronization between threads, which cannot be captured
    on_gpu = device.type == "cuda"
    index = device.index if on_gpu and device.index is not None else -1
    return torch._C._aoti.AOTIModelPackageLoader(str(path), name, on_gpu, 1, index)


class ElementCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, within a ``with`` block, the elements that elementwise operations give; copies are none.

    The public ``torch.utils.flop_counter`` counts matrix products alone. If the class it stands on is gone, count what
    a traced graph holds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        copies = (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
        if isinstance(found, Tensor) and torch.Tag.pointwise in func.tags and func not in copies:
            self.total += found.numel()
        return found
