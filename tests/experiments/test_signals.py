"""Signals that come while the main thread is in a long call, as in a compilation."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LONG_CALL = """
import hashlib, os, signal, sys, threading
from experiments.common.signals import answered
class Handler:
    at_once = sys.argv[1] == "end"
    def __call__(self, *_):
        os._exit(130)
signal.signal(signal.SIGINT, Handler())
with answered(0.2):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    # A call of some seconds during which Python runs no signal handler, though other threads run.
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", int(sys.argv[2]))
os._exit(0)
"""


def in_a_long_call(how: str, iterations: int) -> tuple[int, str]:
    command = [sys.executable, "-c", LONG_CALL, how, str(iterations)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return run.returncode, run.stderr


def test_a_signal_during_a_long_call_is_answered():
    code, error = in_a_long_call("wait", 10_000_000)
    assert code == 130
    assert "SIGINT received: the program that is being compiled or run must finish first" in error


def test_where_nothing_is_to_be_saved_a_signal_ends_a_long_call():
    assert in_a_long_call("end", 2_000_000_000) == (130, "")
