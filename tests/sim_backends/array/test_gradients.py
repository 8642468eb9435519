"""Gradients through the network: against finite differences, and a training that sees line resistance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim_backends.array.devices.conduction import Ohmic, Sinh
from sim_backends.array.solver import gradients
from sim_backends.array.solver.gradients import terminal_currents
from sim_backends.array.solver.network import Drive, Lines, solve

FloatArray = NDArray[np.float64]
SIDES = ("left", "right", "bottom", "top")
NAN = float("nan")
LINES = Lines(20.0, 30.0, 5.0)
MAKERS: dict[str, Callable[[FloatArray], Any] | None] = {
    "resistors": None,
    "ohmic devices": Ohmic,
    "sinh": lambda g: Sinh(g, 2.7),
}


def problem(
    rows: int, columns: int, lead: tuple[int, ...] = (), sides: tuple[str, ...] = SIDES, floating: bool = True
) -> dict[str, FloatArray]:
    """Conductances (mS) and voltages; the last line of each side floats."""
    rng = np.random.default_rng(rows + 10 * columns)
    found = {"g": rng.uniform(0.1, 1.0, (rows, columns))}
    for side in sides:
        count = rows if side in ("left", "right") else columns
        v = rng.uniform(-1, 1, (*lead, count))
        if floating and count > 1:
            v[..., -1] = NAN
        found[side] = v
    return found


def tensors(of: dict[str, FloatArray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in of.items()}


def loss_of(of: dict[str, FloatArray], weights: dict[str, FloatArray], devices: Any, **more: Any) -> float:
    """Weighted sum of all currents (mA), by `solve` itself."""
    g = of["g"] * 1e-3
    drives = {side: v for side, v in of.items() if side != "g"}
    solution = solve(g if devices is None else devices(g), **drives, tolerance=1e-12, **more)
    return 1e3 * sum(float(np.sum(w * getattr(solution, f"i_{side}"))) for side, w in weights.items())


def weighted(currents: gradients.TerminalCurrents, weights: dict[str, FloatArray]) -> torch.Tensor:
    parts = [torch.sum(torch.tensor(w) * getattr(currents, side)) for side, w in weights.items()]
    return 1e3 * torch.stack(parts).sum()


def weights_of(of: dict[str, FloatArray]) -> dict[str, FloatArray]:
    rng = np.random.default_rng(0)
    return {side: rng.uniform(-1, 1, v.shape) for side, v in of.items() if side != "g"}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("lines", [LINES, Lines()], ids=["resistive", "perfect"])
@pytest.mark.parametrize("sides", [SIDES, ("left", "bottom"), ("right", "top")], ids=len)
def test_gradients_are_finite_differences(kind: str, lines: Lines, sides: tuple[str, ...]) -> None:
    if lines == Lines() and len(sides) == 4:
        sides = ("left", "bottom")  # a perfect line with two voltages is a contradiction
    of = problem(4, 3, sides=sides)
    weights, devices = weights_of(of), MAKERS[kind]
    given = tensors(of)
    g = given.pop("g")
    currents = terminal_currents(g * 1e-3, **given, lines=lines, devices=devices, tolerance=1e-12)
    loss = weighted(currents, weights)
    assert loss.item() == pytest.approx(loss_of(of, weights, devices, lines=lines), rel=1e-10)
    loss.backward()
    given["g"] = g
    step = 1e-5
    for name, value in of.items():
        gradient = given[name].grad
        assert gradient is not None
        for index in np.ndindex(value.shape):
            if np.isnan(value[index]):
                assert gradient[index] == 0, "a floating line has no voltage to be changed"
                continue
            changed = []
            for sign in (1, -1):
                moved = {n: x.copy() for n, x in of.items()}
                moved[name][index] += sign * step
                changed.append(loss_of(moved, weights, devices, lines=lines))
            assert gradient[index].item() == pytest.approx((changed[0] - changed[1]) / (2 * step), rel=2e-6, abs=2e-7)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("r_source", [0.0, 500.0])
def test_gradcheck(kind: str, r_source: float) -> None:
    of = problem(3, 4, floating=False)
    given = tensors(of)

    def currents(g: torch.Tensor, *sides: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of_sides = dict(zip(SIDES, sides, strict=True))
        found = terminal_currents(
            g * 1e-3, **of_sides, lines=LINES, r_source=r_source, devices=MAKERS[kind], tolerance=1e-12
        )
        return tuple(1e3 * i for i in found)

    assert torch.autograd.gradcheck(currents, (given["g"], *(given[s] for s in SIDES)), eps=1e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("vectors", [1, 3, 40])
@pytest.mark.parametrize("sides", [SIDES, ("left", "bottom"), ("left",)], ids=len)
def test_many_vectors_on_one_array_are_the_sum_of_single_ones(vectors: int, sides: tuple[str, ...]) -> None:
    """The shared way, by the response to each terminal, against one after another."""
    of = problem(5, 4, (vectors,), sides)
    weights, given = weights_of(of), tensors(of)
    g = given.pop("g")
    weighted(terminal_currents(g * 1e-3, **given, lines=LINES, tolerance=1e-12), weights).backward()
    total = np.zeros((5, 4))
    for k in range(vectors):
        alone = {side: torch.tensor(of[side][k], requires_grad=True) for side in sides}
        own = torch.tensor(of["g"], requires_grad=True)
        currents = terminal_currents(own * 1e-3, **alone, lines=LINES, devices=Ohmic, tolerance=1e-12)
        weighted(currents, {side: w[k] for side, w in weights.items()}).backward()
        assert own.grad is not None
        total += own.grad.numpy()
        for side in sides:
            np.testing.assert_allclose(given[side].grad[k], alone[side].grad, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(g.grad, total, rtol=1e-8, atol=1e-10 * np.abs(total).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_batches_of_arrays(kind: str) -> None:
    rng = np.random.default_rng(1)
    g = torch.tensor(rng.uniform(1e-4, 1e-3, (3, 1, 4, 5)), requires_grad=True)
    left = torch.tensor(rng.uniform(-1, 1, (2, 4)), requires_grad=True)
    currents = terminal_currents(g, left=left, bottom=0.0, lines=LINES, devices=MAKERS[kind])
    assert currents.bottom.shape == (3, 2, 5) and currents.left.shape == (3, 2, 4)
    weights = torch.tensor(rng.uniform(-1, 1, (3, 2, 5)))
    torch.sum(weights * currents.bottom).backward()
    assert g.grad is not None and left.grad is not None
    assert g.grad.shape == g.shape and left.grad.shape == left.shape
    of_left = torch.zeros_like(left)
    for array in range(3):
        own = g[array, 0].detach().clone().requires_grad_()
        for vector in range(2):
            v = left[vector].detach().clone().requires_grad_()
            found = terminal_currents(own, left=v, bottom=0.0, lines=LINES, devices=MAKERS[kind])
            torch.sum(weights[array, vector] * found.bottom).backward()
            assert v.grad is not None
            of_left[vector] += v.grad
        assert own.grad is not None
        np.testing.assert_allclose(g.grad[array, 0], own.grad, rtol=1e-6, atol=1e-9 * g.grad.abs().max().item())
    np.testing.assert_allclose(left.grad, of_left, rtol=1e-6, atol=1e-12)


def test_lines_that_float_for_some_vectors_only() -> None:
    """The response to unit voltages differs between vectors then."""
    of = problem(5, 4, (6,), ("left", "bottom"), floating=False)
    of["left"][2, 1] = NAN
    of["bottom"][4, 3] = NAN
    weights, given = weights_of(of), tensors(of)
    g = given.pop("g")
    weighted(terminal_currents(g * 1e-3, **given, lines=LINES, tolerance=1e-12), weights).backward()
    assert g.grad is not None
    for index in np.ndindex(5, 4):
        changed = []
        for sign in (1, -1):
            moved = {n: x.copy() for n, x in of.items()}
            moved["g"][index] += sign * 1e-5
            changed.append(loss_of(moved, weights, None, lines=LINES))
        assert g.grad[index].item() == pytest.approx((changed[0] - changed[1]) / 2e-5, rel=2e-6, abs=2e-7)


def test_one_number_for_all_lines_gets_the_gradient_of_all() -> None:
    g, v = np.random.default_rng(2).uniform(1e-4, 1e-3, (4, 3)), torch.tensor(0.3, dtype=torch.float64)
    v.requires_grad_()
    terminal_currents(torch.tensor(g), left=v, bottom=0.0, lines=LINES).bottom.sum().backward()
    assert v.grad is not None
    total = solve(g, left=1.0, bottom=0.0, lines=LINES).i_bottom.sum()
    assert v.grad.item() == pytest.approx(total, rel=1e-9)


def test_currents_have_the_type_of_the_conductances() -> None:
    g = torch.full((3, 3), 1e-4, dtype=torch.float32, requires_grad=True)
    currents = terminal_currents(g, left=1.0, bottom=0.0, lines=LINES, r_source=10.0)
    currents.bottom.sum().backward()
    assert currents.bottom.dtype == torch.float32 and g.grad is not None and g.grad.dtype == torch.float32
    expected = solve(np.full((3, 3), 1e-4), left=Drive(1.0, 10.0), bottom=Drive(0.0, 10.0), lines=LINES).i_bottom
    np.testing.assert_allclose(currents.bottom.detach(), expected, rtol=1e-6)


@pytest.mark.slow
def test_training_sees_the_lines() -> None:
    """Conductances that make an array with 20 Ohm segments multiply as an ideal one would."""
    rng = np.random.default_rng(3)
    wanted, v = torch.tensor(rng.uniform(1e-4, 3e-4, (6, 5))), torch.tensor(rng.uniform(0, 0.2, (30, 6)))
    log_g = wanted.log().requires_grad_()
    optimiser = torch.optim.Adam([log_g], lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (
            (terminal_currents(log_g.exp(), left=v, bottom=0.0, lines=Lines(20.0, 20.0)).bottom - v @ wanted) ** 2
        ).mean()
        (1e10 * loss).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]
    assert torch.all(log_g.exp().mean() > wanted.mean()), "what the lines take has to be made up for"


def test_the_network_alone_does_not_need_torch() -> None:
    ours = "sim_backends.array.solver.network, sim_backends.array.circuit.passive_array"
    code = f"import sys, {ours}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
