"""What a device tells of itself while it works: clock, temperature, whether it holds itself back, the energy it takes. Runs on the device:
stdlib only; what a device does not tell is None."""

from __future__ import annotations

import contextlib
from pathlib import Path

CLOCK = "devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"  # kHz
HEAT = "class/thermal/thermal_zone*/temp"  # thousandths of a degree
THROTTLED = "devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"  # x86: events since boot
FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi: bits, 0 to 3 are now
COUNTERS = "class/powercap/intel-rapl:*/energy_uj"  # x86, of a whole package; microjoules that wrap around
RANGE = "max_energy_range_uj"
RAILS = "class/hwmon/hwmon*"  # Jetson's and other boards' power meters: power1_input in microwatts, or in mV and mA
BATTERY = "class/power_supply/*/current_now"  # Android: microamperes, with voltage_now beside it in microvolts


class Watch:
    """Looks at a device from its making until `read`. `root` is where the system's files of a device lie."""

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root
        self._events = self._sum(THROTTLED)
        self._energy = self._counters()

    def read(self, seconds: float) -> dict[str, float | None]:
        """`clock_mhz` of the fastest core and `temperature_c` of the hottest zone now, `throttled` (1.0 or 0.0) since the making, and
        `energy_j` in these seconds: counted where the device counts, else its power now times the seconds."""
        clocks, zones = self._numbers(CLOCK), self._numbers(HEAT)
        return {
            "clock_mhz": max(clocks) / 1000 if clocks else None,
            "temperature_c": max(zones) / 1000 if zones else None,
            "throttled": self._throttled(),
            "energy_j": self._joules(seconds),
        }

    def _throttled(self) -> float | None:
        with contextlib.suppress(OSError, ValueError):
            return float(bool(int((self._root / FIRMWARE).read_text(), 16) & 0xF))
        events = self._sum(THROTTLED)
        return None if events is None or self._events is None else float(events > self._events)

    def _joules(self, seconds: float) -> float | None:
        now = self._counters()
        if self._energy and now.keys() == self._energy.keys():
            return sum((value - self._energy[path]) % self._range(path) for path, value in now.items()) / 1e6
        watts = self._watts()
        return None if watts is None else watts * seconds

    def _watts(self) -> float | None:
        rails: list[float] = []
        for folder in self._root.glob(RAILS):
            direct = list(folder.glob("power*_input"))
            rails += [value / 1e6 for p in direct if (value := _number(p)) is not None]
            if not direct:
                for amperes in folder.glob("curr*_input"):
                    volts = _number(folder / amperes.name.replace("curr", "in"))
                    milli = _number(amperes)
                    rails += [volts * milli / 1e6] if volts is not None and milli is not None else []
        for current in self._root.glob(BATTERY):
            volts, micro = _number(current.with_name("voltage_now")), _number(current)
            rails += [abs(volts * micro) / 1e12] if volts is not None and micro else []
        return sum(rails) if rails else None

    def _counters(self) -> dict[Path, float]:
        found = {path: _number(path) for path in self._root.glob(COUNTERS) if path.parent.name.count(":") == 1}
        return {path: value for path, value in found.items() if value is not None}

    def _range(self, path: Path) -> float:
        return (_number(path.with_name(RANGE)) or 2.0**32) + 1

    def _numbers(self, pattern: str) -> list[float]:
        return [value for path in self._root.glob(pattern) if (value := _number(path)) is not None]

    def _sum(self, pattern: str) -> float | None:
        numbers = self._numbers(pattern)
        return sum(numbers) if numbers else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
