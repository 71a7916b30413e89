"""The face of the package: the bus, and how its parts are put together."""
