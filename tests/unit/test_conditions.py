"""What a device tells of itself, from made system files."""

from __future__ import annotations

from pathlib import Path

from edgearte.measure.conditions import Watch


def write(root: Path, name: str, value: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def test_a_device_that_tells_nothing(tmp_path: Path) -> None:
    assert Watch(tmp_path).read(1.0) == {"clock_mhz": None, "temperature_c": None, "throttled": None, "energy_j": None}


def test_clock_heat_throttling_and_counted_energy(tmp_path: Path) -> None:
    write(tmp_path, "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1_800_000)
    write(tmp_path, "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", 2_400_000)
    write(tmp_path, "class/thermal/thermal_zone0/temp", 51_000)
    write(tmp_path, "class/thermal/thermal_zone1/temp", 64_500)
    counter = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    write(tmp_path, counter, 3)
    write(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 4_000_000_000)
    write(tmp_path, "class/powercap/intel-rapl:0/max_energy_range_uj", 4_294_967_295)
    write(tmp_path, "class/powercap/intel-rapl:0:0/energy_uj", 1)  # a part of the package, counted in it
    watch = Watch(tmp_path)
    assert watch.read(2.0) == {"clock_mhz": 2400.0, "temperature_c": 64.5, "throttled": 0.0, "energy_j": 0.0}
    write(tmp_path, counter, 4)
    write(tmp_path, "class/powercap/intel-rapl:0/energy_uj", 5_032_704)  # it wrapped around
    found = watch.read(2.0)
    assert found["throttled"] == 1.0
    assert found["energy_j"] == 300.0


def test_power_meters_of_boards_and_phones(tmp_path: Path) -> None:
    write(tmp_path, "class/hwmon/hwmon0/power1_input", 2_500_000)
    write(tmp_path, "class/hwmon/hwmon1/curr1_input", 1_000)
    write(tmp_path, "class/hwmon/hwmon1/in1_input", 5_000)
    assert Watch(tmp_path).read(2.0)["energy_j"] == 2 * (2.5 + 5.0)
    phone = tmp_path / "phone"
    write(phone, "class/power_supply/battery/current_now", -500_000)
    write(phone, "class/power_supply/battery/voltage_now", 4_000_000)
    assert Watch(phone).read(3.0)["energy_j"] == 6.0


def test_a_raspberry_pi_says_by_bits_that_it_holds_itself_back(tmp_path: Path) -> None:
    write(tmp_path, "devices/platform/soc/soc:firmware/get_throttled", "50000")  # it happened since the start, and does not now
    assert Watch(tmp_path).read(1.0)["throttled"] == 0.0
    write(tmp_path, "devices/platform/soc/soc:firmware/get_throttled", "50005")
    assert Watch(tmp_path).read(1.0)["throttled"] == 1.0
