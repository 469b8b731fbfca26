"""Keys are taken out of messages, answers and logs, whatever form they were echoed in."""

from __future__ import annotations

import base64
import json
import logging
import urllib.parse

import pytest

from diffbench.secret import HIDDEN, Secrets, keep_out_of_logs, secrets_of_address

KEY = 'pa"ss/wörd+7'
SECRETS = Secrets.of([KEY, "abc"])


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        urllib.parse.quote(KEY, safe=""),
        json.dumps(KEY),
        repr(KEY),
        base64.b64encode(KEY.encode()).decode(),
        f"Bearer {KEY}",
        f"https://x/?key={urllib.parse.quote(KEY, safe='')}&a=b",
    ],
)
def test_every_form_is_hidden(form: str) -> None:
    for found in (SECRETS.out_of(f"sent {form}, got 401"), SECRETS.out_of_answer(f"sent {form}, got 401")):
        assert HIDDEN in found and "got 401" in found
        assert not any(part in found for part in (KEY, "w\\u00f6rd", urllib.parse.quote(KEY, safe="")))
    assert KEY not in repr(SECRETS)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("{'Authorization': 'Bearer abcdef123456'}", "abcdef123456"),
        ("[(b'X-Echo', b'Bearer sk-proj-abc_DEF-123')]", "sk-proj-abc_DEF-123"),
        ("authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("Incorrect API key provided: sk-abc12***********wxyz.", "wxyz"),
        ("cannot connect to http://user:hunter22@host:80/v1", "hunter22"),
        ("x-api-key=0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_whatever_looks_like_a_key_is_hidden_in_messages(text: str, gone: str) -> None:
    assert gone not in Secrets().out_of(text) and HIDDEN in Secrets().out_of(text)


@pytest.mark.parametrize(
    "text", ["Basic authentication required", "the bearer of news", "see http://host/v1", "task-1"]
)
def test_ordinary_words_stay(text: str) -> None:
    assert Secrets.of(["", "abc"]).out_of(text) == text


def test_words_that_stand_for_no_key_stay_in_answers() -> None:
    """Servers of one's own are often given EMPTY or ollama for a key."""
    assert (
        Secrets.of(["EMPTY"]).out_of_answer("an EMPTY line, the Bearer 1234567") == "an EMPTY line, the Bearer 1234567"
    )
    assert Secrets.of(["EMPTY"]).out_of("key EMPTY") == f"key {HIDDEN}"


def test_addresses_give_their_secrets() -> None:
    found = secrets_of_address("https://al%40ice:s3cret-pw@host:8000/v1?token=t0ken-value&x=")
    assert {"al@ice", "s3cret-pw", "al@ice:s3cret-pw", "t0ken-value"} <= set(found)
    assert secrets_of_address("http://localhost:8000/v1") == [] and secrets_of_address("http://[") == ["http://["]


def test_logs_of_the_client_are_filtered_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    secret = "loggable-secret-99"
    keep_out_of_logs(Secrets.of([secret]))
    keep_out_of_logs(Secrets.of([secret]))
    with caplog.at_level(logging.DEBUG):
        for name in ("httpx", "httpx2", "httpcore.http11", "httpcore2.http2", "openai"):
            logger = logging.getLogger(name)
            logger.debug("sent %s to %s", secret, "host")
            try:
                raise ValueError(f"bad {secret}")
            except ValueError:
                logger.exception("failed")
            logger.debug("%d", "no number")
        logging.getLogger("diffbench.test").debug("mine: %s", "kept")
    assert secret not in caplog.text and caplog.text.count(f"sent {HIDDEN} to host") == 5
    assert caplog.text.count(f"ValueError: bad {HIDDEN}") == 5 and "mine: kept" in caplog.text
