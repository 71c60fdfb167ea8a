"""Settings of all tests, also for the processes that they start."""

from __future__ import annotations

import os

# One thread each: the tests run side by side, and tiny networks gain nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
# No test may reach a hub, whatever the machine allows.
os.environ["HF_HUB_OFFLINE"] = "1"
