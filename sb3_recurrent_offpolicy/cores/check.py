"""What every core must keep."""

import torch as th

from sb3_recurrent_offpolicy.cores.core import RecurrentCore


def check_core(core: RecurrentCore, n_steps: int = 7, batch_size: int = 3, atol: float = 1e-5) -> None:
    """
    Check that a core keeps what the algorithms rely on; the counterpart of ``check_env`` for memories.

    * shapes: outputs and states are as ``output_size`` and ``state_shapes`` promise
    * ``step`` repeated equals ``unroll``, in outputs and in states
    * a sequence unrolled in two halves equals the sequence unrolled at once: the state carries everything
    * no row of a batch influences another
    * a zero state is a fresh start: what the core saw before leaves no trace in it

    :param core: the core to check; it is put into evaluation mode (no dropout)
    :param n_steps: length T of the test sequences, at least 2
    :param batch_size: number of rows B, at least 2
    :param atol: largest absolute difference that counts as equal; float precision of a T-step unroll
    :raises ValueError: naming the property that does not hold
    """
    core.eval()

    def close(a: tuple[th.Tensor, ...], b: tuple[th.Tensor, ...]) -> bool:
        return all(th.allclose(x, y, atol=atol) for x, y in zip(a, b, strict=True))

    def require(condition: bool, broken: str) -> None:
        if not condition:
            raise ValueError(f"{type(core).__name__}: {broken}")

    with th.no_grad():
        zeros = core.initial_state(batch_size)
        inputs = th.randn(n_steps, batch_size, core.input_size, device=zeros[0].device if zeros else None)
        outputs, state = core.unroll(inputs, zeros)

        expected = [(layers, batch_size, hidden) for layers, hidden in core.state_shapes]
        for name, candidate in (("initial_state", zeros), ("unroll", state), ("step", core.step(inputs[0], zeros)[1])):
            shapes = [tuple(array.shape) for array in candidate]
            require(shapes == expected, f"{name} returns a state of shapes {shapes}, state_shapes promises {expected}")
        expected_shape = (n_steps, batch_size, core.output_size)
        require(
            tuple(outputs.shape) == expected_shape,
            f"unroll returns outputs of shape {tuple(outputs.shape)}, expected (T, B, output_size) = {expected_shape}",
        )
        require(all(not array.any() for array in zeros), "initial_state is not zero")

        stepped, step_state = [], zeros
        for step_inputs in inputs:
            output, step_state = core.step(step_inputs, step_state)
            stepped.append(output)
        require(close((th.stack(stepped), *step_state), (outputs, *state)), "step, repeated, differs from unroll")

        half = n_steps // 2
        first, middle = core.unroll(inputs[:half], zeros)
        second, end = core.unroll(inputs[half:], middle)
        require(
            close((th.cat([first, second]), *end), (outputs, *state)),
            "unrolling in two parts differs from unrolling at once: the state does not carry everything",
        )

        disturbed = inputs.clone()
        disturbed[:, 0] += 1.0
        other_outputs, other_state = core.unroll(disturbed, zeros)
        require(
            close((other_outputs[:, 1:], *(s[:, 1:] for s in other_state)), (outputs[:, 1:], *(s[:, 1:] for s in state))),
            "one row of the batch leaks into another",
        )
        again, again_state = core.unroll(inputs, zeros)
        require(close((again, *again_state), (outputs, *state)), "a zero state is no fresh start: earlier inputs left a trace")
