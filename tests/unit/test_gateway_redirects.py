"""For how long caches may send readers to a bucket."""

from __future__ import annotations

import pytest

from gateway_svc.bucket import BucketPlace
from provledger.s3 import Bucket, BucketURI
from provledger.tiles import TilePath

TILE = TilePath(0, 3, 256)


@pytest.mark.parametrize(
    ("token", "redirect_s", "max_age_s"),
    [("", 86_400, 43_200), ("of a role", 86_400, 300), ("of a role", 60, 30)],
)
async def test_urls_that_end_with_temporary_credentials_are_not_kept_for_long(
    monkeypatch: pytest.MonkeyPatch, token: str, redirect_s: int, max_age_s: int
) -> None:
    # It remembers the credentials that it found first.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    else:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    uri = BucketURI.parse("s3://logs/a?region=eu-central-1", "tile_store")
    place = BucketPlace(Bucket(uri), redirect_s=redirect_s)
    redirect = await place.redirect("0" * 32, TILE)
    await place.close()
    assert redirect is not None
    assert redirect.url.startswith("https://")
    assert redirect.max_age_s == max_age_s
