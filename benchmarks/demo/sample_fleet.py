"""The sample fleet: one hour of real position reports of 91 aircraft over Paris, as uploads.

data/README.md names the source of the data.
"""

import csv
import gzip
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

GROUP: Final = "paris"
_FILE: Final = Path(__file__).parent / "data" / "adsb_one_hour.csv.gz"
_METRES_PER_FOOT: Final = 0.3048
_METRES_A_SECOND_PER_KNOT: Final = 1852 / 3600
_ACCURACY_M: Final = 30.0
"""Accuracy in metres. The data has none; this is about what aircraft are required to have."""


@dataclass(frozen=True, slots=True)
class Aircraft:
    """A device of the fleet."""

    icao24: str
    callsign: str

    @property
    def device_id(self) -> str:
        """The aircraft's device id."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"icao24:{self.icao24}"))

    @property
    def registration(self) -> dict[str, str]:
        """The body that registers it."""
        return {
            "device_id": self.device_id,
            "display_name": self.callsign or self.icao24,
            "group_id": GROUP,
            "platform": "adsb",
        }


def read_fleet() -> tuple[list[Aircraft], list[dict[str, Any]]]:
    """Return the aircraft, and their reports as bodies of uploads in the order of arrival."""
    fleet: dict[str, Aircraft] = {}
    device_ids: dict[str, str] = {}
    reports = []
    for row in _rows():
        icao24 = row["icao24"]
        if icao24 not in fleet:
            fleet[icao24] = Aircraft(icao24, row["callsign"])
            device_ids[icao24] = fleet[icao24].device_id
        reports.append(_upload(device_ids[icao24], row))
    return list(fleet.values()), reports


def _rows() -> Iterator[dict[str, str]]:
    with gzip.open(_FILE, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _upload(device_id: str, row: dict[str, str]) -> dict[str, Any]:
    upload: dict[str, Any] = {
        "device_id": device_id,
        "timestamp": int(row["timestamp_ms"]),
        "latitude": float(row["latitude_deg"]),
        "longitude": float(row["longitude_deg"]),
        "accuracy": _ACCURACY_M,
        "provider": "adsb",
    }
    if row["altitude_ft"]:
        upload["altitude"] = float(row["altitude_ft"]) * _METRES_PER_FOOT
    if row["groundspeed_kt"]:
        upload["speed"] = float(row["groundspeed_kt"]) * _METRES_A_SECOND_PER_KNOT
    if row["track_deg"]:
        upload["bearing"] = float(row["track_deg"])
    return upload
