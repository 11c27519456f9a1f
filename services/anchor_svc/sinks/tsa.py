"""A timestamp authority (RFC 3161): somebody else's word for when a checkpoint was there.

Each attempt asks with a fresh nonce, and what comes back is verified before it counts, by the
authority's own certificate (`provledger.timestamp`). The evidence is the whole answer, so that
anybody can verify it again later. After an answer that was lost the authority is asked again, and
another token says as much as the first.
"""

from __future__ import annotations

from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError
from anchor_svc.sinks.http import Poster
from provledger import timestamp
from provledger.errors import MissingExtraError, VerificationError


class TimestampSink:
    """The authority at `url`."""

    def __init__(self, uri: str, url: str, authority: timestamp.Authority) -> None:
        self.uri = uri
        self._authority = authority
        self._poster = Poster(url)

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Have the checkpoint stamped; see `AnchorSink`."""
        message = timestamp.imprint_message(checkpoint.note, checkpoint.origin)
        try:
            request = timestamp.build_request(message)
            answer = await self._poster.post(request.der, "application/timestamp-query")
            if answer.status != 200:
                raise answer.busy()
            timestamp.verify_token(answer.body, message, self._authority, request.nonce)
        except (VerificationError, MissingExtraError) as error:
            raise SinkError(str(error)) from error
        return Evidence(
            timestamp.KIND, timestamp.encode_evidence(request, answer.body, self._authority)
        )

    async def close(self) -> None:
        """See `AnchorSink`."""
        self._poster.close()
