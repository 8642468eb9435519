"""A run at a scripted bench that counts what it is asked; the real instruments are in tests/flow."""

import numpy as np

from analysis.record.record import Record
from instruments.roles.interfaces import DieSite
from protocols.bench.bench import ContactCheck
from protocols.sequencer.carried import bury, interrupted
from protocols.sequencer.run import Run, RunSettings
from protocols.sequencer.stopping import StopRequest


class Quiet:
    def die(self, name, index, count): ...
    def step(self, name, recorded): ...
    def progress(self, text, share): ...


class ScriptedBench:
    """Counts entering and leaving; every die conducts but those in `dead`."""

    def __init__(self, dead=(), count=3):
        self.entered, self.left, self.aborted, self.dead = [], 0, 0, dead
        self.contact_check = ContactCheck(1.0, 1)
        self.bins, self.count, self.g = {}, count, 1e-4
        self.prober = self
        self.array = self

    def enter(self, die):
        self.entered.append(die.name)
        self.contact_check = ContactCheck(0.0 if die.name in self.dead else 1.0, 1)

    def leave(self):
        self.left += 1

    def abort(self):
        self.aborted += 1

    def check_contact(self): ...

    def set_bin(self, site, bin_number):
        self.bins[str(site)] = bin_number

    def die_sites(self):
        return [DieSite(c, 0) for c in range(self.count)]

    def identify(self):
        return "scripted"

    def can_sweep(self):
        return False

    def chuck_temperature(self):
        return 25.0

    def capabilities(self):
        class Caps:
            rows = columns = kernels = blocks = block_rows = block_columns = 1
            kernel_block = kernel_row = kernel_column = (0,)
            ranges = ()
            v_min, v_max, v_read_max, dac_lsb = -1.0, 1.0, 0.3, 1e-3
            cell, schemes = "2T1R", ()

        return Caps

    def range_for(self, current):
        return 0

    def read(self, kernel, voltage, *, current_range=0, averages=1):
        return np.full((1, 1), self.g * voltage)


def start_run(folder, script, settings=None, *, stop=None, said=None, **bench):
    """Run a script as `execute` does, without signals and display; gives the bench, None if none was opened."""
    opened = []

    def open_bench(run):
        opened.append(ScriptedBench(**bench))
        return opened[0]

    stop = stop or StopRequest(said.append if said is not None else lambda text: None)
    with Record.open(folder) as record:
        bury(record)
        settings, resumes = settings or RunSettings(3), interrupted(record, "p")
        run = Run(record, "p", settings, open_bench, Quiet(), stop, {}, resumes=resumes)
        try:
            script(run)
            run.close(failed=False)
        except BaseException as error:
            run.close(failed=True, error=error)
            record.end_run(run.id, "failed")
            raise
        record.end_run(run.id, "finished")
    return opened[0] if opened else None
