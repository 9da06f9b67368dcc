"""What clients complain about, as librdkafka words it, and what a person is told."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from brokers.clients import Health
from brokers.hints import hint


@pytest.mark.parametrize(
    ("complaint", "setting"),
    [
        ("SASL authentication error: Authentication failed due to invalid credentials", "B_PASSWORD"),
        ("SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism", "B_SASL_MECHANISM"),
        ("error:0A000086:SSL routines::certificate verify failed (after 11ms in state SSL_HANDSHAKE)", "B_SSL_CA"),
        ("SSL routines::tlsv13 alert certificate required: SSL alert number 116", "B_SSL_CERTIFICATE"),
        ("SSL routines::ssl/tls alert certificate unknown: SSL alert number 46", "B_SSL_CERTIFICATE"),
        ("SSL routines::tlsv1 alert unknown ca: SSL alert number 48", "B_SSL_CERTIFICATE"),
        ("SSL handshake failed: Disconnected: SSL connection closed by peer", "B_SECURITY_PROTOCOL"),
        ("1/1 brokers are down", "B_SECURITY_PROTOCOL"),
    ],
)
def test_a_complaint_leads_to_its_setting(complaint: str, setting: str) -> None:
    """Nobody has to know librdkafka's words."""
    assert setting in hint(complaint)


def test_what_speaks_for_itself_gets_no_hint() -> None:
    """A server that is down is down."""
    assert hint("Connect to ipv4#127.0.0.1:1 failed: Connection refused") == ""


def test_a_reason_outlives_its_summary() -> None:
    """That all servers are down follows upon every reason, and would hide it."""
    health = Health()
    assert health.why() == ""
    health.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert "1/1 brokers are down; it hangs up" in health.why()
    health.on_error(KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error: no"))
    health.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert health.why().startswith(" (SASL authentication error: no; check")
