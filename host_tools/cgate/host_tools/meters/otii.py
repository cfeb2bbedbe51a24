"""Qoitech Otii Arc and Ace, by the library otii-tcp-client and Otii's server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cgate.core.errors import EXIT_TARGET_FAILED, CgateError
from cgate.host_tools.meters.samples import Chunk, gone

PORT = 1905
POWER, EDGES = "mp", "i1"
_PATIENCE_S = 5.0


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """The library's exceptions as ours."""
    from otii_tcp_client.otii_client import OtiiClientException
    from otii_tcp_client.otii_connection import DisconnectedException
    from otii_tcp_client.otii_exception import Otii_Exception

    try:
        yield
    except (DisconnectedException, OSError, RuntimeError) as error:
        raise gone("Otii", error) from error
    except (Otii_Exception, OtiiClientException) as error:
        raise CgateError(
            f"the Otii server refuses: {error}",
            "see in the Otii application that you are logged in and have an Automation license",
            EXIT_TARGET_FAILED,
        ) from error


class Otii:
    """Power of the main output; edges from input GPI1."""

    name = "otii"

    def __init__(
        self, volts: float, host: str = "127.0.0.1", port: int = PORT, rate_hz: float = 4000.0
    ) -> None:
        self.volts: float | None = volts
        self.rate_hz = rate_hz
        self._address = host, port
        self._count = self._edges = 0
        self._heard = 0.0

    def __enter__(self) -> Otii:
        """Connect, switch the supply on, start a recording."""
        from otii_tcp_client.otii_client import OtiiClient

        host, port = self._address
        self._client = OtiiClient()
        with _faults():
            server: Any = self._client.connect(host=host, port=port, try_for_seconds=0)
            devices = server.get_devices()
            if len(devices) != 1:
                raise CgateError(
                    f"{len(devices)} Otii devices are connected, one is needed",
                    "connect one, and close its project in the Otii application",
                    EXIT_TARGET_FAILED,
                )
            self._device = devices[0]
            self._device.set_main_voltage(self.volts)
            self._device.set_exp_voltage(self.volts)
            for channel in (POWER, EDGES):
                self._device.enable_channel(channel, True)
            self._project = server.get_active_project() or server.create_project()
            self._project.start_recording()
            self._recording = self._project.get_last_recording()
            self._device.set_main(True)
        self._heard = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the recording; the supply stays on."""
        with contextlib.suppress(CgateError), _faults():
            self._project.stop_recording()
        with contextlib.suppress(Exception):  # a broken connection cannot be closed cleanly
            self._client.disconnect()

    def read(self, timeout_s: float) -> Chunk | None:
        """What the server has recorded since the last call."""
        deadline = time.monotonic() + timeout_s
        recording, device = self._recording, self._device.id
        while True:
            with _faults():
                count = recording.get_channel_data_count(device, POWER) - self._count
                if count > 0:
                    return self._chunk(
                        recording.get_channel_data(device, POWER, self._count, count)
                    )
            if time.monotonic() - self._heard > _PATIENCE_S:
                raise gone("Otii", f"no sample came for {_PATIENCE_S:g} s")
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)

    def _chunk(self, data: dict[str, Any]) -> Chunk:
        self._heard = time.monotonic()
        rate = 1 / float(data["interval"])
        if abs(rate / self.rate_hz - 1) > 0.01:
            raise CgateError(
                f"the Otii samples at {rate:g} Hz, not at {self.rate_hz:g} Hz",
                f"add --rate {rate:g}",
                EXIT_TARGET_FAILED,
            )
        watts = np.array(data["values"], np.float64)
        self._count += len(watts)
        # The time of a sample numbers it: where it jumps, samples were lost.
        first = round(float(data["timestamp"]) * self.rate_hz)
        recording, device = self._recording, self._device.id
        waiting = recording.get_channel_data_count(device, EDGES) - self._edges
        edges = []
        if waiting > 0:
            values = recording.get_channel_data(device, EDGES, self._edges, waiting)["values"]
            end = first + len(watts)
            for event in values:
                at = round(float(event["timestamp"]) * self.rate_hz)
                if at >= end:
                    break  # its samples are still to come
                self._edges += 1
                if not event["value"]:
                    edges.append(at)
        return Chunk(first, watts, tuple(edges))

    @property
    def ended(self) -> bool:
        """Never: it measures until it is stopped."""
        return False

    def identity(self) -> str:
        """Name and versions of the device."""
        with _faults():
            version = self._device.get_version()
        return f"{self._device.name}, hardware {version['hw_version']}, {version['fw_version']}"
