"""What an answer in XML says is what was kept, and stays XML whatever that is."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from proxy.awsmodel.query import render, text


@pytest.mark.parametrize(
    "value",
    [
        'a & b < c > d "e" f',
        "]]></Description><IsTruncated>true</IsTruncated><!--",
        "no-break\u00a0space, ideographic\u3000one",
        "lines\r\nof\ttwo\rsystems\n",
        "\u200d\U0001f469\u200d\U0001f680 \U0001fae8 \U0010fffd",
        "\u0085 \u2028",
    ],
)
def test_a_text_comes_back_from_xml_as_it_was(value: str) -> None:
    tags = {"Tags": [{"Key": "k", "Value": value}], "IsTruncated": False}
    parsed = ElementTree.fromstring(render("iam", "ListUserTags", tags, "request-1"))  # noqa: S314  # it is ours
    [found] = [each.text for each in parsed.iter() if each.tag.endswith("}Value")]
    assert found == value


def test_what_xml_has_no_form_for_is_a_question_mark() -> None:
    assert text("\x00a\x1fb\ufffec\uffffd\ud800e\x0b") == "?a?b?c?d?e?"
