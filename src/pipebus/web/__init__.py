"""A running bus on a page in a browser: `pipebus.web.app(bus)`. It can look at everything and change nothing."""
