"""What a refusal of the API model says back of an input."""

from __future__ import annotations

import pytest

from proxy.awsmodel.validation import validate
from proxy.model.errors import Failure


@pytest.mark.parametrize("token", ["abc", "eyJ.secret." * 4000])
def test_a_refusal_does_not_say_back_what_the_model_calls_sensitive(token: str) -> None:
    given = {
        "RoleArn": "arn:aws:iam::123456789012:role/ci",
        "RoleSessionName": "build",
        "WebIdentityToken": token,
    }
    with pytest.raises(Failure) as caught:
        validate("AssumeRoleWithWebIdentity", given, "sts")
    assert "Value 'HIDDEN' at 'webIdentityToken' failed to satisfy constraint: Member must have length" in str(
        caught.value
    )
    assert token[:11] not in repr(caught.value)
