"""Draw the figure of conduction.md: how nonlinear the laws are, a selector in series, a transistor in series."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim_backends.array.devices.conduction import Cubic, Ohmic, Sinh
from sim_backends.array.devices.series import Series
from sim_backends.array.devices.transistor import Transistor


def draw_laws(axis: Axes) -> None:
    v = np.linspace(0.001, 1.0, 400)[None]
    for name, alpha in [("N1257R", 2.7169), ("O921C at 4.2 K", 1.8748), ("O921C", 1.2384)]:
        axis.plot(v[0], (Sinh(1.0, alpha).current(v)[0] / v)[0], label=f"sinh, {name}")
    v = np.linspace(0.001, 0.4, 100)[None]
    cubic = Cubic(98.3e-6, 204e-6)
    axis.plot(v[0], (cubic.current(v)[0] / v / cubic.low_field)[0], "--", label="cubic, Nili, 100 uS")
    axis.set(xlabel="voltage (V)", ylabel="I/V, relative to low field", title="nonlinearity")
    axis.legend(fontsize=7)


def draw_selector(axis: Axes) -> None:
    v = np.linspace(0.005, 2.0, 400)[None]
    device, selector = Ohmic(300e-6), Sinh(1e-12, 20.0)
    both = Series(device, selector)
    axis.semilogy(v[0], device.current(v)[0][0], ":", label="device, 300 uS")
    axis.semilogy(v[0], selector.current(v)[0][0], ":", label="selector, 20 / V")
    axis.semilogy(v[0], both.current(v)[0][0], label="in series")
    full, half = (both.current(np.full((1, 1), volts))[0].item() for volts in (2.0, 1.0))
    axis.plot([2.0, 1.0], [full, half], "ok", markersize=4)
    axis.annotate(f"V/2: 1/{full / half:.0f}", (1.0, half), (4, -14), textcoords="offset points", fontsize=8)
    axis.set(xlabel="voltage (V)", ylabel="current (A)", title="device and selector", ylim=(1e-14, 1e-2))
    axis.legend(fontsize=7, loc="lower right")


def draw_transistor(axis: Axes) -> None:
    v = np.linspace(-2.0, 2.0, 401)[None]
    for gate in (3.0, 2.0, 1.5, 1.0):
        i, _, _ = Transistor(300e-6, gate, 0.6, 500e-6).current(v, np.zeros((1, 1)))
        axis.plot(v[0], 1e6 * i[0], label=f"gate {gate:g} V")
    axis.set(xlabel="row voltage, column at 0 V (V)", ylabel="current (uA)", title="device and transistor")
    axis.legend(fontsize=7)


def draw() -> Figure:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    laws, selector, transistor = figure.subplots(1, 3)
    draw_laws(laws)
    draw_selector(selector)
    draw_transistor(transistor)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("conduction.png"), dpi=110)
