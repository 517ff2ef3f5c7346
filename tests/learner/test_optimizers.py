import math

import pytest
import torch

from machina.learner.optimizers import CentredRMSProp, FusedRAdam, RMSPropTF

LR, DECAY, EPSILON = 0.1, 0.9, 0.02


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_equals_a_scalar_transcription_of_tensorflow_1(momentum: float) -> None:
    starts = [[0.5, -2.0, 3.0], [1e-3]]
    params = [torch.tensor(start, dtype=torch.float64).requires_grad_() for start in starts]
    optimizer = RMSPropTF(params, lr=LR, decay=DECAY, epsilon=EPSILON, momentum=momentum)
    weights = [w for start in starts for w in start]
    squares, moments = [1.0] * len(weights), [0.0] * len(weights)
    for step in range(6):
        lr = LR / (1 + step)
        optimizer.param_groups[0]["lr"] = lr
        for parameter in params:
            parameter.grad = (parameter.detach() ** 2) * (step - 2)
        optimizer.step()
        for i, weight in enumerate(weights):
            gradient = weight**2 * (step - 2)
            squares[i] = DECAY * squares[i] + (1 - DECAY) * gradient**2
            moments[i] = momentum * moments[i] + lr * gradient / math.sqrt(squares[i] + EPSILON)
            weights[i] = weight - moments[i]
    got = [w for parameter in params for w in parameter.tolist()]
    assert got == pytest.approx(weights, rel=1e-12)


def test_centred_rmsprop_equals_a_scalar_transcription_of_the_published_code() -> None:
    """Epsilon lies under the root; both means start at zero."""
    params = [torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64).requires_grad_()]
    optimizer = CentredRMSProp(params, LR, DECAY, EPSILON)
    weights, squares, means = [0.5, -2.0, 3.0], [0.0] * 3, [0.0] * 3
    for step in range(6):
        params[0].grad = (params[0].detach() ** 2) * (step - 2)
        optimizer.step()
        for i, weight in enumerate(weights):
            gradient = weight**2 * (step - 2)
            squares[i] = DECAY * squares[i] + (1 - DECAY) * gradient**2
            means[i] = DECAY * means[i] + (1 - DECAY) * gradient
            weights[i] = weight - LR * gradient / math.sqrt(squares[i] - means[i] ** 2 + EPSILON)
    assert params[0].tolist() == pytest.approx(weights, rel=1e-12)


def test_centred_rmsprop_steps_by_numbers_where_rounding_makes_the_variance_negative() -> None:
    """Gradients that never change have none; of some values the square of the mean is rounded above the mean square."""
    weights = torch.zeros(1000, requires_grad=True)
    optimizer = CentredRMSProp([weights], 1e-3, 0.95, 1e-12)
    gradients = 1000 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for _ in range(400):
        weights.grad = gradients
        optimizer.step()
    state = optimizer.state[weights]
    assert (state["square_average"] < state["average"] ** 2).any()
    assert weights.isfinite().all()


def test_the_first_step_is_small_unlike_pytorchs() -> None:
    """s = 0.99 + 0.01 g^2, so a gradient of 1 moves the weight by lr / sqrt(1 + 0.01)."""
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    RMSPropTF([weight], lr=1.0).step()
    assert weight.item() == pytest.approx(-1 / math.sqrt(1.01))


def test_a_parameter_without_gradient_stays() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    used.grad = torch.ones(2)
    RMSPropTF([used, unused], lr=0.1).step()
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))


def test_default_constants_are_those_of_the_paper() -> None:
    (group,) = RMSPropTF([torch.zeros(1, requires_grad=True)], 0.1).param_groups
    assert {name: group[name] for name in ("lr", "decay", "epsilon", "momentum")} == {
        "lr": 0.1,
        "decay": 0.99,
        "epsilon": 0.01,
        "momentum": 0.0,
    }


def test_fused_radam_makes_the_steps_of_pytorchs() -> None:
    """From the first, where the variance is unknown, with changing rates, small gradients and one that is missing."""
    starts = [torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4), torch.ones(2, dtype=torch.float64)]
    own, theirs = ([start.clone().requires_grad_() for start in (*starts, starts[1])] for _ in range(2))
    fused, plain = FusedRAdam(own, lr=1.0), torch.optim.RAdam(theirs, lr=1.0)
    for step in range(12):
        for optimizer, params in ((fused, own), (plain, theirs)):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            for parameter, scale in zip(params[:2], (1.0, 1e-7), strict=True):
                parameter.grad = scale * (parameter.detach() ** 2 - step % 3)
            optimizer.step()
        for mine, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert torch.equal(own[2], starts[1]), "it never had a gradient"
    assert (fused.param_groups[0]["lr"], fused.param_groups[0]["eps"]) == (0.1 / 12, 1e-8)


def test_fused_radam_returns_the_loss_of_a_closure() -> None:
    weight = torch.ones(1, requires_grad=True)

    def loss() -> float:
        weight.grad = torch.ones(1)
        return 3.5

    assert FusedRAdam([weight], lr=0.1).step(loss) == 3.5
    assert weight.item() == pytest.approx(0.9)
