"""Whether a call of ours lets other threads of Python run meanwhile."""

import sys
import threading


def lets_another_thread_run(call):
    """Python does not switch threads by itself here: the other one only runs if we let go."""
    go, ran = threading.Event(), []

    def other():
        go.wait()
        ran.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        go.set()
        for _ in range(200):  # the other thread may be slow to wake on a busy machine
            call()
            if ran:
                return True
        return False
    finally:
        sys.setswitchinterval(interval)
        thread.join()
