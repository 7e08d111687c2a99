"""One step of an optimizer, and the memory that it works in."""

from typing import Any, NamedTuple

import torch as th

from sb3_recurrent_offpolicy.settings import MaxGradNorm

# glibc keeps at most twice the largest block that was ever freed, and learns from blocks up to 32 MiB
LARGEST_OBSERVED_BLOCK = 2**25 - 2**13

# Of the gradients of each optimizer: enough for a median that a few dozen outliers do not move
N_KEPT_NORMS = 100


def keep_freed_memory() -> None:
    """
    Let glibc keep up to 64 MiB of freed memory for the next update. By default it returns what an update has freed to the
    operating system, and each page is faulted in again for every update. Elsewhere, without effect.
    """
    # Freeing one large block raises both of malloc's dynamic thresholds, see mallopt(3), M_MMAP_THRESHOLD
    th.empty(LARGEST_OBSERVED_BLOCK, dtype=th.uint8)


class _Prepared(NamedTuple):
    """What Adam's kernel takes for a group of parameters, but for the gradients."""

    parameters: list[th.Tensor]
    averages: list[th.Tensor]
    squares: list[th.Tensor]
    largest_squares: list[th.Tensor]
    steps: list[th.Tensor]
    counts: list[th.Tensor]
    """The different ones of ``steps``"""


class FusedAdam(th.optim.Adam):
    """
    ``torch.optim.Adam(fused=True)``, the same steps and the same state, without what that prepares at each step in Python
    and costs as much as the kernel for small networks.

    :param params: parameters, or groups of them
    :param kwargs: as for ``torch.optim.Adam``
    """

    def __init__(self, params: Any, **kwargs: Any):
        super().__init__(params, **kwargs | {"fused": True})
        self._forget()

    # 1 if the next step is not to be made, as torch's ``GradScaler`` has it
    found_inf: th.Tensor | None = None

    def _forget(self) -> None:
        # Of each group all of whose parameters have a state
        self._prepared: dict[int, _Prepared] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also called by load_state_dict
        super().__setstate__(state)
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """
        :return: as of ``torch.optim.Adam``, with a count of steps for each parameter
        """
        found = super().state_dict()
        # Who loads one count for several parameters would count each step as often
        found["state"] = {key: entries | {"step": entries["step"].clone()} for key, entries in found["state"].items()}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        :param state_dict: of this class or of ``torch.optim.Adam``, fused or not
        """
        groups = [group | {"fused": True} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})

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
            if index not in self._prepared or any(gradient is None for gradient in gradients):
                prepared, gradients = self._prepare(index, group)
            else:
                prepared = self._prepared[index]
            if not gradients:
                continue
            for step in prepared.counts:
                step += 1
                if self.found_inf is not None:
                    step -= self.found_inf
            beta1, beta2 = group["betas"]
            th._fused_adam_(
                prepared.parameters,
                gradients,
                prepared.averages,
                prepared.squares,
                prepared.largest_squares,
                prepared.steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=group["amsgrad"],
                maximize=group["maximize"],
                found_inf=self.found_inf,
            )

    def _prepare(self, index: int, group: dict[str, Any]) -> tuple["_Prepared", list[th.Tensor]]:
        """What the kernel takes for the parameters that have a gradient, and their gradients."""
        self._prepared.pop(index, None)
        for parameter in group["params"]:
            if parameter in self.state:
                self.state[parameter]["step"] = self.state[parameter]["step"].clone()
        lists: tuple[list[th.Tensor], ...] = [], [], [], [], [], []
        self._init_group(group, *lists)
        parameters, gradients, averages, squares, largest_squares, steps = lists
        if len(parameters) < len(group["params"]):
            return _Prepared(parameters, averages, squares, largest_squares, steps, steps), gradients
        if len({step.item() for step in steps}) == 1:
            # Counting for each parameter costs more than the kernel
            steps = steps[:1] * len(steps)
            for parameter in parameters:
                self.state[parameter]["step"] = steps[0]
        counts = list(dict.fromkeys(steps))
        self._prepared[index] = _Prepared(parameters, averages, squares, largest_squares, steps, counts)
        return self._prepared[index], gradients


def make_optimizer(
    optimizer_class: type[th.optim.Optimizer], parameters: list[th.nn.Parameter], memory: set[th.nn.Parameter], **kwargs: Any
) -> th.optim.Optimizer:
    """
    :param optimizer_class: the optimizer to use. Adam and AdamW get ``fused=True``, the same steps in a single kernel, unless
        told otherwise; Adam then is :class:`FusedAdam`
    :param parameters: what it optimizes
    :param memory: what belongs to memories: a group of its own, whose learning rate can be another
    :param kwargs: of the optimizer
    :return: the optimizer
    """
    if optimizer_class in (th.optim.Adam, th.optim.AdamW) and not {"foreach", "differentiable"} & set(kwargs):
        kwargs = {"fused": True} | kwargs
    if optimizer_class is th.optim.Adam and kwargs.get("fused"):
        optimizer_class = FusedAdam
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter not in memory], "is_memory": False},
        {"params": [parameter for parameter in parameters if parameter in memory], "is_memory": True},
    ]
    return optimizer_class([group for group in groups if group["params"]], **kwargs)


def latest_norms(optimizer: th.optim.Optimizer) -> tuple[th.Tensor, th.Tensor]:
    """
    :param optimizer: keeps them in its first group, so that they are saved and loaded with it
    :return: norms of its latest gradients, and what they were clipped to; (100,) each, in any order, NaN where there are none
        yet
    """
    group = optimizer.param_groups[0]
    if "gradient_norms" not in group:
        group["gradient_norms"] = th.full((2, N_KEPT_NORMS), th.nan, device=group["params"][0].device)
        group["n_norms"] = 0
    norms, limits = group["gradient_norms"]
    return norms, limits


def step_if_finite(optimizer: th.optim.Optimizer, *numbers: th.Tensor) -> None:
    """
    Make a step, unless a loss or a gradient is not finite: parameters stay as they were then. :func:`take_n_refused` tells
    afterwards, because asking here would wait for the device.

    :param optimizer: whose parameters have gradients
    :param numbers: a loss, the norm of all these gradients: scalars
    """
    refused = (~sum(numbers).isfinite()).float()  # type: ignore[union-attr]
    optimizer.n_refused = getattr(optimizer, "n_refused", 0.0) + refused  # type: ignore[attr-defined]
    if isinstance(optimizer, FusedAdam):
        optimizer.found_inf = refused
        optimizer.step()
    elif not refused.item():
        optimizer.step()


def take_n_refused(optimizer: th.optim.Optimizer) -> int:
    """
    :param optimizer: any
    :return: steps that were not made since this was last asked
    """
    n_refused = int(getattr(optimizer, "n_refused", 0.0))
    optimizer.n_refused = 0.0  # type: ignore[attr-defined]
    return n_refused


def check_finite_parameters(module: th.nn.Module) -> None:
    """
    :param module: about to be saved
    :raises ValueError: if one of its parameters is not finite
    """
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"{name} holds {parameter[~parameter.isfinite()][0].item()}: such a model is of no use, and is not saved. "
                "Take the last one that was saved, and lower learning_rate"
            )


def _clip(optimizer: th.optim.Optimizer, gradients: list[th.Tensor], max_norm: MaxGradNorm) -> th.Tensor:
    """The norm of the gradients as they were."""
    # One norm in place of one for each tensor, as in ``torch.nn.utils.clip_grad_norm_``
    norm = th.cat([gradient.flatten() for gradient in gradients]).norm()
    norms, limits = latest_norms(optimizer)
    group = optimizer.param_groups[0]
    index = group["n_norms"] % N_KEPT_NORMS
    group["n_norms"] += 1
    norms[index] = norm
    if max_norm is None:
        limits[index] = th.inf
        return norm
    limits[index] = norms.nanmedian() if max_norm == "auto" else max_norm
    th._foreach_mul_(gradients, (limits[index] / (norm + 1e-6)).clamp(max=1.0))
    return norm


def minimize(loss: th.Tensor, optimizer: th.optim.Optimizer, max_grad_norm: MaxGradNorm = None) -> None:
    """
    One step on the parameters of an optimizer, if loss and gradient are finite; no other parameter gets a gradient.

    :param loss: scalar
    :param optimizer: of the parameters
    :param max_grad_norm: clip their gradients to this norm, "auto" to the running median of their norm, None not to
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
    # Fewer calls than zero_grad() and backward(), which accumulates
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    step_if_finite(optimizer, loss.detach(), _clip(optimizer, list(filter(th.is_tensor, gradients)), max_grad_norm))
