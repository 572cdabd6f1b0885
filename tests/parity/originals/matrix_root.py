"""Run by another environment's interpreter: scipy's matrix root as pytorch-fid and clean-fid call it."""

import numpy as np
from scipy import linalg

linalg.sqrtm(np.eye(2), disp=False)
