import threading
from concurrent.futures import ThreadPoolExecutor

from vlmoe_serve.encoding.pixel_budget import PixelBudget

from ..waiting import PATIENCE_S


def test_threads_never_hold_more_than_the_budget():
    budget = PixelBudget(100)
    lock, held, most = threading.Lock(), 0, 0

    def one(number):
        nonlocal held, most
        pixels = 10 + number % 60
        with budget.turn(pixels):
            with lock:
                held += pixels
                most = max(most, held)
            threading.Event().wait(0.001)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(80)))
    assert held == 0
    assert 70 <= most <= 100


def test_a_picture_over_the_budget_is_decoded_alone():
    budget = PixelBudget(100)
    order = []

    def second():
        with budget.turn(1):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with budget.turn(10_000):
            waiting = pool.submit(second)
            threading.Event().wait(0.02)
            order.append("first")
        waiting.result(timeout=PATIENCE_S)
    assert order == ["first", "second"]


def test_a_turn_is_given_back_after_a_failure():
    budget = PixelBudget(1)
    for _ in range(3):
        try:
            with budget.turn(1):
                raise KeyError
        except KeyError:
            pass
    with budget.turn(1):
        pass
