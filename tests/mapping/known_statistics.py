"""Defect statistics with known parameters, for tests that draw dies."""

import numpy as np

from mapping.dies.defects import DefectStatistics
from mapping.dies.geometry import MTJ_20K

G_P, G_AP = 1 / 7000, 1 / 13000


def statistics(**changes):
    known = {
        "geometry": MTJ_20K,
        "rate_mu": np.log(0.01),
        "rate_sigma": 0.4,
        "rate_max": 0.06,
        "shares": np.array([0.5, 0.15, 0.1, 0.1, 0.15]),
        "lines": np.array([0.3, 0.2, 0.1]),
        "log_g": np.log([G_P, G_AP]),
        "log_g_cov": np.array([[0.0013, 0.0011], [0.0011, 0.0017]]),
        "levels": np.array([1 / 2100, 0.0, G_P, G_AP]),
        "weak": (0.1, 0.4),
    }
    return DefectStatistics(**(known | changes))
