"""The built-in filters, one file each. They have no privileges: your own filters can do everything that they can."""

from pipebus.filters.circuit_breaker import CircuitBreaker
from pipebus.filters.concurrency import Concurrency
from pipebus.filters.dedupe import Dedupe
from pipebus.filters.drop import Drop
from pipebus.filters.enrich import Enrich
from pipebus.filters.expire import Expire
from pipebus.filters.fallback import Fallback
from pipebus.filters.fields import Fields
from pipebus.filters.log import Log
from pipebus.filters.rate_limit import RateLimit
from pipebus.filters.redact import Redact
from pipebus.filters.redeliver import Redeliver
from pipebus.filters.reroute import Reroute
from pipebus.filters.retry import Retry
from pipebus.filters.set_envelope import SetEnvelope
from pipebus.filters.set_headers import SetHeaders
from pipebus.filters.sign import Sign
from pipebus.filters.size_limit import SizeLimit
from pipebus.filters.tap import Tap
from pipebus.filters.timeout import Timeout
from pipebus.filters.validate import Validate
from pipebus.filters.verify import Verify
from pipebus.values.expressions import Condition as Condition  # for settings of filters; not filters themselves
from pipebus.values.expressions import Expression as Expression

__all__ = [
    "CircuitBreaker", "Concurrency", "Dedupe", "Drop", "Enrich", "Expire", "Fallback", "Fields", "Log", "RateLimit", "Redact",
    "Redeliver", "Reroute", "Retry", "SetEnvelope", "SetHeaders", "Sign", "SizeLimit", "Tap", "Timeout", "Validate", "Verify",
]  # fmt: skip
