"""What a client's complaint means, and which setting mends it.  Pure.

librdkafka names its own settings at best; a person looks for the one that is set (``B_...``, see `settings`).
"""

from __future__ import annotations


CERTIFICATE = "ssl.certificate.location (B_SSL_CERTIFICATE)"
PROTOCOL = "security.protocol (B_SECURITY_PROTOCOL)"
VERIFY = "the server's certificate has expired, names another host, or is not signed by ssl.ca.location (B_SSL_CA)"

#: Words in a complaint, and what to look at.  The first match counts.
HINTS = (
    ("Unsupported SASL mechanism", "the server wants another sasl.mechanism (B_SASL_MECHANISM)"),
    ("SASL authentication error", "check sasl.username and sasl.password (B_USERNAME, B_PASSWORD)"),
    ("certificate verify failed", VERIFY),
    ("alert certificate required", f"the server wants {CERTIFICATE} and its key"),
    (
        "alert certificate",
        f"the server does not accept {CERTIFICATE}: expired, or of an authority that it does not know",
    ),
    ("alert bad certificate", f"the server does not accept {CERTIFICATE}"),
    ("alert unknown ca", f"the server does not know the authority of {CERTIFICATE}"),
    ("SSL connection closed by peer", f"{PROTOCOL} asks for TLS; does that port speak it?"),
    ("brokers are down", f"it hangs up before it says a word: does that port speak another {PROTOCOL}?"),
)


def hint(complaint: str) -> str:
    """What to look at, for the end of an error message; empty when the complaint says it all."""
    found = (meaning for words, meaning in HINTS if words in complaint)
    return next((f"; {meaning}" for meaning in found), "")
