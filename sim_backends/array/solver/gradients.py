"""Gradients through an array's network, as a torch function: training sees line resistance and sneak paths.

The derivative of a terminal current by a conductance is the product of two cell voltages: that of the network as it is
driven, and that of the same network (linearised) driven at its terminals by the gradients that come back. So a
backward pass costs one more solution, whatever the number of cells.

This is the only module of the array library that needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from sim_backends.array.devices.interface import Conducting, FloatArray
from sim_backends.array.solver.network import Drive, Lines, Method, NetworkError, Solution, solve
from sim_backends.array.solver.problem import real_numbers

SIDES = ("left", "right", "bottom", "top")
_INTO_ARRAY = (1.0, 1.0, -1.0, -1.0)  # currents of the columns are counted out of the array
Voltages = Sequence[FloatArray | None]


class ScaledByConductance(Conducting, Protocol):
    """Devices whose current depends on a conductance of each cell."""

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """Derivative of the current by the cell's conductance at cell voltages (V), ``[..., row, column]``."""
        ...


class TerminalCurrents(NamedTuple):
    """Currents of all terminals (A): into the rows at left and right, out of the columns at bottom and top."""

    left: torch.Tensor
    right: torch.Tensor
    bottom: torch.Tensor
    top: torch.Tensor


def terminal_currents(
    g: torch.Tensor,
    *,
    left: torch.Tensor | float | None = None,
    right: torch.Tensor | float | None = None,
    bottom: torch.Tensor | float | None = None,
    top: torch.Tensor | float | None = None,
    lines: Lines = Lines(),  # noqa: B008 (frozen)
    r_source: float = 0.0,
    devices: Callable[[FloatArray], ScaledByConductance] | None = None,
    tolerance: float = 1e-9,
    method: Method = "auto",
) -> TerminalCurrents:
    """Terminal currents of arrays, with gradients by conductances and voltages.

    Parameters
    ----------
    g
        Conductances ``[..., row, column]`` (S), float32 or float64.
    left, right, bottom, top
        Voltages ``[..., line]`` (V), as in `sim_backends.array.solver.network.solve`; NaN floats and gets no gradient.
    lines, tolerance, method
        As there.
    r_source
        Resistance of all sources (Ohm).
    devices
        Makes nonlinear devices of the conductances, such as ``lambda g: Sinh(g, alpha=2.7)``; None: ohmic cells.

    Returns
    -------
    TerminalCurrents
        Of the type of `g`, computed in float64. Not differentiable twice.

    Raises
    ------
    NetworkError, ConvergenceError
        As `solve`.
    """
    if g.dtype not in (torch.float32, torch.float64):
        raise NetworkError(f"conductances are of type {g.dtype}: give float32 or float64, others cannot hold currents")
    sides = [None if v is None else _side(v, g.device) for v in (left, right, bottom, top)]
    return TerminalCurrents(*_Currents.apply(_Network(lines, r_source, tolerance, method), devices, g, *sides))


def _side(v: torch.Tensor | float, device: torch.device) -> torch.Tensor:
    """Voltages of one side, in their own precision."""
    if not isinstance(v, torch.Tensor):
        return torch.as_tensor(real_numbers(v, "voltages", "V"), device=device)
    if v.dtype.is_complex or v.dtype == torch.bool:
        raise NetworkError(f"voltages are of type {v.dtype}: give real numbers in V")
    return (v if v.dtype.is_floating_point else v.to(torch.float64)).to(device)


@dataclass(frozen=True)
class _Network:
    """All that stays the same between the forward and the backward pass."""

    lines: Lines
    r_source: float
    tolerance: float
    method: Method

    def solve(self, devices: FloatArray | Conducting, voltages: Voltages, *, cells: bool = False) -> Solution:
        left, right, bottom, top = (None if v is None else Drive(v, self.r_source) for v in voltages)
        return solve(
            devices,
            left=left,
            right=right,
            bottom=bottom,
            top=top,
            lines=self.lines,
            cells=cells,
            tolerance=self.tolerance,
            method=self.method,
        )


class _Currents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: _Network, make: Any, g: torch.Tensor, *sides: torch.Tensor | None) -> Any:
        conductance = _array(g)
        voltages = [None if v is None else _array(v) for v in sides]
        devices = conductance if make is None else make(conductance)
        # the backward pass of many vectors on one array of ohmic cells wants no cell voltages of each vector
        shared = make is None and conductance.ndim == 2 and all(_same_lines_float(v) for v in voltages if v is not None)
        solution = network.solve(devices, voltages, cells=not shared)
        ctx.network, ctx.devices, ctx.like = network, devices, (g, sides)
        ctx.voltages, ctx.v_cell = voltages, None if shared else solution.v_cell
        return tuple(torch.as_tensor(getattr(solution, f"i_{side}"), dtype=g.dtype, device=g.device) for side in SIDES)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        g, sides = ctx.like
        back: list[FloatArray | None] = []
        for v, sign, gradient in zip(ctx.voltages, _INTO_ARRAY, gradients, strict=True):
            back.append(None if v is None else np.where(np.isnan(v), np.nan, sign * _array(gradient)))
        if ctx.v_cell is None:
            by_g, adjoint = _shared(ctx.network, ctx.devices, ctx.voltages, back)
        else:
            by_g, adjoint = _one_by_one(ctx.network, ctx.devices, ctx.v_cell, back)
        of_sides: list[torch.Tensor | None] = []
        for v, b, sign, side in zip(sides, back, _INTO_ARRAY, SIDES, strict=True):
            current = sign * getattr(adjoint, f"i_{side}")
            of_sides.append(None if v is None or b is None else _like(np.where(np.isnan(b), 0.0, current), v))
        return None, None, _like(by_g, g), *of_sides


def _one_by_one(network: _Network, devices: Any, v_cell: FloatArray, back: Voltages) -> tuple[FloatArray, Solution]:
    """Gradient by the conductances, and the adjoint solution, for every network on its own."""
    if isinstance(devices, np.ndarray):
        slope, by_conductance = devices, v_cell
    else:
        slope, by_conductance = devices.current(v_cell)[1], devices.derivative_to_conductance(v_cell)
    adjoint = network.solve(slope, back, cells=True)
    return by_conductance * adjoint.v_cell, adjoint


def _shared(network: _Network, g: FloatArray, voltages: Voltages, back: Voltages) -> tuple[FloatArray, Solution]:
    """The same for many vectors on one array of ohmic cells, by the response of all cells to each terminal."""
    lead = np.broadcast_shapes(*(v.shape[:-1] for v in (*voltages, *back) if v is not None and v.ndim))
    counts = (g.shape[0], g.shape[0], g.shape[1], g.shape[1])
    forward, adjoint = (
        [None if v is None else np.broadcast_to(v, (*lead, n)) for v, n in zip(of, counts, strict=True)]
        for of in (voltages, back)
    )
    response = network.solve(g, _unit_voltages(forward), cells=True).v_cell.reshape(-1, g.size)
    v, b = (_all_terminals(of) for of in (forward, adjoint))
    by_g = np.einsum("tc,tc->c", response, (b.T @ v) @ response)
    return by_g.reshape(g.shape), network.solve(g, back)


def _all_terminals(voltages: Voltages) -> FloatArray:
    """``[vector, terminal]``, zero where nothing is connected."""
    return np.concatenate([np.nan_to_num(x.reshape(-1, x.shape[-1])) for x in voltages if x is not None], axis=1)


def _unit_voltages(voltages: Voltages) -> list[FloatArray | None]:
    """One volt at each terminal in turn, ``[terminal, line]`` for each side; unconnected lines stay so."""
    total = sum(v.shape[-1] for v in voltages if v is not None)
    units: list[FloatArray | None] = []
    first = 0
    for v in voltages:
        if v is None:
            units.append(None)
            continue
        lines = np.arange(v.shape[-1])
        unit = np.zeros((total, lines.size))
        unit[first + lines, lines] = 1.0
        unit[:, np.isnan(v.reshape(-1, lines.size)[0])] = np.nan
        units.append(unit)
        first += lines.size
    return units


def _same_lines_float(v: FloatArray) -> bool:
    """Whether voltages ``[..., line]`` leave the same lines unconnected in all vectors."""
    floats = np.isnan(v)
    return v.ndim < 2 or bool(np.all(floats == floats.reshape(-1, v.shape[-1])[0]))


def _array(tensor: torch.Tensor) -> FloatArray:
    values: FloatArray = tensor.detach().cpu().to(torch.float64).numpy()
    return values


def _like(gradient: FloatArray, tensor: torch.Tensor) -> torch.Tensor:
    """A gradient in the shape and type of what it belongs to: summed over axes that were broadcast."""
    found = torch.as_tensor(gradient, dtype=tensor.dtype, device=tensor.device)
    return found.sum_to_size(tensor.shape) if found.shape != tensor.shape else found
