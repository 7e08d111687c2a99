"""One step of an optimizer, and the memory that it works in."""

from typing import Any

import torch as th

# glibc keeps at most twice the largest block that was ever freed, and learns from blocks up to 32 MiB
# Adding a number to each of many tensors makes a tensor of it each time
ONE = th.ones(())
LARGEST_OBSERVED_BLOCK = 2**25 - 2**13


def keep_freed_memory() -> None:
    """
    Let glibc keep up to 64 MiB of freed memory for the next update. By default it returns what an update has freed to the
    operating system, and each page is faulted in again: a fifth of the time of an update of small networks. Elsewhere, without
    effect.
    """
    # Freeing one large block raises both of malloc's dynamic thresholds, see mallopt(3), M_MMAP_THRESHOLD
    th.empty(LARGEST_OBSERVED_BLOCK, dtype=th.uint8)


class FusedAdam(th.optim.Adam):
    """
    ``torch.optim.Adam(fused=True)``, the same steps and the same state, without what that prepares anew at each step in Python
    and costs as much as the kernel for small networks.

    :param params: parameters, or groups of them
    :param kwargs: as for ``torch.optim.Adam``
    """

    def __init__(self, params: Any, **kwargs: Any):
        super().__init__(params, **kwargs | {"fused": True})
        self._forget()

    def _forget(self) -> None:
        # Of each group whose parameters have been stepped once: what the kernel takes, but for the gradients
        self._prepared: dict[int, tuple[list[th.Tensor], ...]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also called by load_state_dict
        super().__setstate__(state)
        self._forget()

    @staticmethod
    def profile_hook_step(func: Any) -> Any:
        """Torch wraps ``step`` in what hooks and its profiler need, half of the cost of a step: :meth:`step` asks first."""
        return func

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """
        :param closure: not supported
        """
        assert closure is None, "a loss is minimised once per step"
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
            super().profile_hook_step(type(self)._step)(self)
        else:
            self._step()

    @th.no_grad()
    def _step(self) -> None:
        for index, group in enumerate(self.param_groups):
            gradients = [parameter.grad for parameter in group["params"]]
            if any(gradient is None for gradient in gradients):
                self._prepared.pop(index, None)
            if index in self._prepared:
                parameters, averages, squares, largest_squares, steps = self._prepared[index]
            else:
                lists: tuple[list[Any], ...] = [], [], [], [], [], []
                self._init_group(group, *lists)
                parameters, gradients, averages, squares, largest_squares, steps = lists
                if len(parameters) == len(group["params"]):
                    self._prepared[index] = parameters, averages, squares, largest_squares, steps
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            th._foreach_add_(steps, ONE)
            th._fused_adam_(
                parameters,
                gradients,
                averages,
                squares,
                largest_squares,
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=group["amsgrad"],
                maximize=group["maximize"],
            )


@th.no_grad()
def clip(gradients: list[th.Tensor], max_norm: float) -> None:
    """
    As ``torch.nn.utils.clip_grad_norm_``, with one norm in place of one for each tensor.

    :param gradients: scaled down in place
    :param max_norm: of all of them together
    """
    norm = th.cat([gradient.flatten() for gradient in gradients]).norm()
    th._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


def minimize(loss: th.Tensor, optimizer: th.optim.Optimizer, max_grad_norm: float | None = None) -> None:
    """
    One step on the parameters of an optimizer; no other parameter gets a gradient.

    :param loss: scalar
    :param optimizer: of the parameters
    :param max_grad_norm: clip their gradients to this norm, None not to
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
    # Fewer calls than zero_grad() and backward(), which accumulates
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if max_grad_norm is not None:
        clip(list(filter(th.is_tensor, gradients)), max_grad_norm)
    optimizer.step()
