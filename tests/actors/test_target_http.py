"""The pool of connections to a target, where several workers share it."""

from __future__ import annotations

import socket

import pytest

from actors.targets.http import _is_readable


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_asking_whether_a_kept_connection_is_closed_leaves_it_as_it_was(timeout: float | None) -> None:
    """The pool asks it of a connection that another worker has just been given, and may be writing to."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(timeout)
        assert not _is_readable(ours)
        assert ours.gettimeout() == timeout
        theirs.close()
        assert _is_readable(ours)
        assert ours.gettimeout() == timeout
    assert _is_readable(ours)
