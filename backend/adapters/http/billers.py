"""Outside billers over HTTP: Stripe's meter events, OpenMeter's CloudEvents.

Shapes: docs.stripe.com/api/billing/meter-event/create, and openmeter.io/docs/metering/events/overview with CloudEvents
1.0 in its JSON format. Both let the same identifier come again.
"""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlencode

from backend.domain.errors import BillerRefused
from backend.domain.usage_pushes import Reading
from backend.domain.webhook_deliveries import retry_after_of
from backend.services.ports import OutboundAnswer, OutboundHttp

SOURCE = "forecourt"


class StripeBiller:
    """Stripe meter events. The meter's aggregation has to be ``last``."""

    name = "stripe"

    def __init__(self, outbound: OutboundHttp, *, url: str, token: str, meter: str) -> None:
        self._outbound = outbound
        self._url = f"{url.rstrip('/')}/v1/billing/meter_events"
        self._token = token
        self._meter = meter

    async def take(self, reading: Reading) -> None:
        """Return once Stripe has a reading.

        Raises:
            CallFailed: it did not answer.
            BillerRefused: it answered that it does not take it.
        """
        form = {
            "event_name": self._meter,
            "payload[stripe_customer_id]": reading.customer_id,
            "payload[value]": str(reading.total),
            "identifier": reading.identifier,
            "timestamp": str(int(reading.at.timestamp())),
        }
        headers = {
            "authorization": f"Bearer {self._token}",
            "content-type": "application/x-www-form-urlencoded",
        }
        # Without an Idempotency-Key: under one, Stripe would give the same error again for a day.
        answer = await self._outbound.post(self._url, headers=headers, body=urlencode(form).encode())
        if not self._has_it(answer, reading):
            _require_success(answer)

    @staticmethod
    def _has_it(answer: OutboundAnswer, reading: Reading) -> bool:
        """Whether the refusal says that this very identifier came before."""
        known = b"already exists" in answer.body and reading.identifier.encode() in answer.body
        return answer.status == HTTPStatus.BAD_REQUEST and known


class OpenMeterBiller:
    """OpenMeter usage events. The meter's aggregation has to be ``LATEST`` over ``$.value``."""

    name = "openmeter"

    def __init__(self, outbound: OutboundHttp, *, url: str, token: str | None, meter: str) -> None:
        self._outbound = outbound
        self._url = f"{url.rstrip('/')}/api/v1/events"
        self._token = token
        self._meter = meter

    async def take(self, reading: Reading) -> None:
        """Return once OpenMeter has a reading.

        Raises:
            CallFailed: it did not answer.
            BillerRefused: it answered that it does not take it.
        """
        event = {
            "specversion": "1.0",
            "id": reading.identifier,
            "source": SOURCE,
            "type": self._meter,
            "subject": reading.customer_id,
            "time": reading.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {"value": reading.total, "period": reading.period, "final": reading.is_final},
        }
        headers = {"content-type": "application/cloudevents+json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        _require_success(await self._outbound.post(self._url, headers=headers, body=json.dumps(event).encode()))


def _require_success(answer: OutboundAnswer) -> None:
    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        wait_s = retry_after_of(answer.headers.get("retry-after"), datetime.now(UTC))
        raise BillerRefused(status=answer.status, retry_after_s=wait_s)
