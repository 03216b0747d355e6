"""How this program leaves Ray."""

from __future__ import annotations

import threading
import time
from unittest.mock import patch

import pytest

from pipelines.cluster import connect
from pipelines.cluster.stop import Stopped


def test_threads_of_ray_data_end_before_ray() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.5,), name="iter_threaded")
    thread.start()
    alive = list[bool]()
    with patch.object(connect.ray, "shutdown", lambda: alive.append(thread.is_alive())):
        connect._end()
    assert alive == [False]


def test_a_second_ctrl_c_ends_ray_too() -> None:
    with patch.object(connect.ray, "shutdown") as shutdown, patch.object(threading, "enumerate", side_effect=Stopped):
        with pytest.raises(Stopped):
            connect._end()
        shutdown.assert_called_once()
