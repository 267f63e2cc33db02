"""The commands that carry a guest's bytes."""

from builder.engines import carrier


def test_what_is_small_is_sent_at_once_on_either_side():
    command = carrier("TCP-LISTEN:1,bind=127.0.0.1,fork", "UNIX-CONNECT:/x")
    assert command[-2:] == ["TCP-LISTEN:1,bind=127.0.0.1,fork,nodelay", "UNIX-CONNECT:/x"]
    assert carrier("UNIX-LISTEN:/x,fork", "TCP:127.0.0.1:22")[-1] == "TCP:127.0.0.1:22,nodelay"
