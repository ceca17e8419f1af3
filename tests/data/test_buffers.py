"""Memory of earlier batches is used again, and never while anybody still holds what lies in it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from vtrap_data import buffers

LARGE = (1 << 12, 1 << 10)  # of float32: 16 MiB


@pytest.fixture(autouse=True)
def _nothing_waits() -> None:
    buffers._waiting.clear()


def test_memory_comes_back_when_the_last_holder_is_gone() -> None:
    array = buffers.empty(LARGE, np.float32)
    where, tensor = array.ctypes.data, torch.from_numpy(array)
    assert array.shape == LARGE and array.dtype == np.float32 and tensor.data_ptr() == where
    view = tensor[3:5].view(-1)
    del array, tensor
    assert buffers.empty(LARGE, np.float32).ctypes.data != where  # the view still holds it
    view.fill_(7)
    del view
    again = {buffers.empty(LARGE, np.float32).ctypes.data for _ in range(2)}
    assert where in again
    held = [buffers.empty((1 << 11, 1 << 10), np.int64) for _ in range(2)]  # as many bytes
    assert where in [array.ctypes.data for array in held]


def test_small_and_unlike_sizes_are_left_alone() -> None:
    del_me = buffers.empty(LARGE, np.float32)
    where = del_me.ctypes.data
    del del_me
    assert buffers.empty((100, 100), np.float32).ctypes.data != where
    assert buffers.empty((1 << 14, 1 << 10), np.float32).ctypes.data != where  # four times as much
    assert buffers._waiting[0].ctypes.data == where


def test_few_blocks_wait() -> None:
    held = [buffers.empty(LARGE, np.float32) for _ in range(9)]
    del held
    assert len(buffers._waiting) == buffers.KEPT


def test_blocks_of_another_size_make_room() -> None:
    small = [buffers.empty(LARGE, np.float32) for _ in range(buffers.KEPT)]
    del small
    for _ in range(2):
        large = buffers.empty((1 << 14, 1 << 10), np.float32)
        where = large.ctypes.data
        del large
    assert buffers.empty((1 << 14, 1 << 10), np.float32).ctypes.data == where


def test_a_process_that_forks_while_a_thread_takes_a_block_goes_on() -> None:
    with buffers._taking:
        child = os.fork()
        if not child:
            buffers.empty(LARGE, np.float32)
            os._exit(7)
    for _ in range(500):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise AssertionError("it hangs")
    assert os.waitstatus_to_exitcode(status) == 7


def test_threads_never_share_a_block() -> None:
    wrong: list[int] = []

    def work(mark: int) -> None:
        draw = random.Random(mark)
        for _ in range(40):
            held = [torch.from_numpy(buffers.empty((draw.randint(5, 9) << 20,), np.float32)) for _ in range(2)]
            for number, tensor in enumerate(held):
                tensor[:: 1 << 18] = 2 * mark + number
            wrong.extend(mark for number, t in enumerate(held) if bool((t[:: 1 << 18] != 2 * mark + number).any()))

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
