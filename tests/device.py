"""The device tests of whole jobs run on: QUANTUI_TEST_DEVICE, which `make test-npu` sets; the CPU otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from quantui import devices

DEVICE = os.environ.get("QUANTUI_TEST_DEVICE", "cpu")
STAND_IN = Path(__file__).with_name("npu") / "dev"
"""What /dev holds where there is an NPU."""

if DEVICE.startswith("npu") and not any(devices.DEV.glob("davinci*")):
    devices.DEV = STAND_IN
