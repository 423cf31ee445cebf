"""List cursors: the position in clear, bound to its list by a MAC."""

import base64
import binascii
import hmac
from hashlib import sha256

from backend.adapters.crypto.keys import derive_key
from backend.domain.errors import FieldError, Invalid

_MAC_BYTES = 16


class HmacCursors:
    """Cursors that cannot be forged, nor carried over to another tenant, list or filter."""

    def __init__(self, secret: str) -> None:
        self._key = derive_key(secret, "cursor")

    def encode(self, purpose: str, position: str) -> str:
        """Return a cursor for a position in the list that ``purpose`` names."""
        raw = position.encode()
        return base64.urlsafe_b64encode(self._mac(purpose, raw) + raw).rstrip(b"=").decode()

    def decode(self, purpose: str, cursor: str) -> str:
        """Return the position.

        Raises:
            Invalid: the cursor was not made by this service for this list.
        """
        try:
            raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError, ValueError):
            raw = b""
        mac, position = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(purpose, position)):
            problem = FieldError("/query/cursor", "is not a cursor of this list")
            raise Invalid("The cursor is not one of this list.", errors=(problem,))
        return position.decode()

    def _mac(self, purpose: str, position: bytes) -> bytes:
        message = len(purpose.encode()).to_bytes(4, "big") + purpose.encode() + position
        return hmac.digest(self._key, message, sha256)[:_MAC_BYTES]
