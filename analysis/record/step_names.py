"""Names of the steps and computations that ship: what a record calls them, wherever their code lies.

The one table of them. Protocols name their functions with these words (`@step(MEASURE_STATES)`), results are found by
them, and records of schema 3, which knew functions by module and name only, are read through `OLD_NAMES`.
"""

from __future__ import annotations

SURVEY = "survey"
NOW = "now"
CHECK_GOLDEN = "check-golden"
CHECK_CONTACT = "check-contact"
MEASURE_STATES = "measure-states"
MEASURE_ANALOG = "measure-analog"
PROGRAM = "program"
WRITE_ANALOG = "write-analog"
FORM = "form"
SWEEP_CELL = "sweep-cell"
KEEP_PICTURE = "keep-picture"

# mtj-mnist
TRAIN_UNAWARE = "train-unaware"
TRAIN_DIE_AWARE = "train-die-aware"
TRAIN_STATISTICS_AWARE = "train-statistics-aware"
SOFTWARE = "software"
EMULATE_MOVED = "emulate-moved"
SENSITIVITY = "sensitivity"
CLASSIFY_IMAGES = "classify-images"
CALIBRATE_ON_DIE = "calibrate-on-die"

# tio2-moons
TRAIN_NETWORKS = "train-networks"
PLAN_DIES = "plan-dies"
CLASSIFY_POINTS = "classify-points"
EMULATE_OTHERS = "emulate-others"
MONTE_CARLO = "monte-carlo"

#: What records of schema 3 call them. Never changed: seals rest on it (`analysis.record_steps`).
OLD_NAMES = {
    "protocols.run._survey": SURVEY,
    "protocols.run._now": NOW,
    "protocols.golden.check_golden": CHECK_GOLDEN,
    "protocols.characterise.check_contact": CHECK_CONTACT,
    "protocols.characterise.measure_states": MEASURE_STATES,
    "protocols.characterise_analog.measure_analog": MEASURE_ANALOG,
    "protocols.write_verify.program": PROGRAM,
    "protocols.analog_write.write_analog": WRITE_ANALOG,
    "protocols.forming.form": FORM,
    "protocols.iv_sweep.sweep_cell": SWEEP_CELL,
    "protocols.grey_picture.keep_picture": KEEP_PICTURE,
    "protocols.mtj_mnist.train_unaware": TRAIN_UNAWARE,
    "protocols.mtj_mnist.train_die_aware": TRAIN_DIE_AWARE,
    "protocols.mtj_mnist.train_statistics_aware": TRAIN_STATISTICS_AWARE,
    "protocols.mtj_mnist.software": SOFTWARE,
    "protocols.mtj_mnist.emulate_moved": EMULATE_MOVED,
    "protocols.mtj_mnist.sensitivity": SENSITIVITY,
    "protocols.mtj_mnist.classify_images": CLASSIFY_IMAGES,
    "protocols.mtj_mnist.calibrate_on_die": CALIBRATE_ON_DIE,
    "protocols.tio2_moons.train_networks": TRAIN_NETWORKS,
    "protocols.tio2_moons.plan_dies": PLAN_DIES,
    "protocols.tio2_moons.classify_points": CLASSIFY_POINTS,
    "protocols.tio2_moons.emulate_others": EMULATE_OTHERS,
    "protocols.tio2_moons.monte_carlo": MONTE_CARLO,
}


def name_of(function: str) -> str:
    """Name of a step by its function's module and name as records of schema 3 hold it; other functions' as it is."""
    return OLD_NAMES.get(function, function)


def is_called(wanted: str, name: str, function: str) -> bool:
    """Whether a step is what somebody asks for: its name, its function, or the function without its module."""
    return wanted in (name, function, function.rpartition(".")[2]) or wanted.replace("_", "-") == name
