"""The order of acknowledgements."""

from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.adapters.mqtt.ack_order import AckOrder


@given(st.permutations(range(8)))
def test_acknowledgements_leave_in_order_and_as_soon_as_they_may(handled: list[int]) -> None:
    sent: list[int] = []
    order = AckOrder(sent.extend, lambda call: call())
    places = [order.enter(mid) for mid in range(len(handled))]
    for count, index in enumerate(handled, start=1):
        order.handled(places[index])
        done = set(handled[:count])
        assert sent == [mid for mid in range(len(handled)) if set(range(mid + 1)) <= done]
