"""An item is applied at once where the lock is free, and by the holder of the lock where it is not."""

from __future__ import annotations

import threading

from lava_mistral._locks import Inbox


def test_an_item_is_applied_at_once_where_nobody_holds_the_lock() -> None:
    applied: list[int] = []
    inbox = Inbox(applied.append)
    inbox.put(1)
    assert applied == [1]


def test_an_item_put_while_the_lock_is_held_is_applied_when_it_is_released() -> None:
    applied: list[int] = []
    inbox = Inbox(applied.append)
    with inbox:
        # The same thread, as from a finalizer that the garbage collector runs here.
        inbox.put(1)
        other = threading.Thread(target=inbox.put, args=(2,))
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert applied == []
    assert applied == [1, 2]


def test_no_item_is_lost_between_threads() -> None:
    total = 0

    def add(item: int) -> None:
        nonlocal total
        total += item

    inbox = Inbox(add)

    def work() -> None:
        for _ in range(2_000):
            inbox.put(1)
            with inbox:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == 8_000
