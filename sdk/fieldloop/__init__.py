"""The contract between the workstation and the devices.

Everything that both sides must agree on lives here, and nothing else: what goes into a model and
comes out (`signature`, `codec`), what runs it (`backends`, `interpreter`), how it travels
(`bundle`, `integrity`, `device_root`), how the field is described (`histogram`, `profile`), and
what is said over MQTT (`telemetry`, `state`, `wire`, `topics`, `mqtt`). The SDK imports no
training framework, and a runtime only when a model is opened.
"""

__version__ = "0.1.0"
