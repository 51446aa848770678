"""One YAML file is one whole experiment: the owners' configs in one tree, and the training built from it. The door for Python: these three."""

from .config import Experiment as Experiment
from .config import load_experiment as load_experiment
from .train import run_training as run_training
