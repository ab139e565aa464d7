"""The contract between the workstation and the devices.

Everything that both sides must agree on lives here, and nothing else: what goes into a model and
comes out (`signature`, `codec`), how it travels (`bundle`, `integrity`), how the field is
described (`histogram`, `profile`), and what is said over MQTT (`telemetry`, `state`, `wire`,
`topics`, `mqtt`). The SDK imports no training framework and no runtime.
"""

__version__ = "0.1.0"
