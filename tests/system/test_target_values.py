"""One lead's long text and a target whose url has it in it: a dead letter, and nobody else waits."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline
from tests.support.system_sql import view
from tests.support.system_wire import message, order
from tests.support.target_servers import OrderSystem, Reply, TargetServer


class Shop(OrderSystem):
    """Orders whose product stands in the query."""

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        return super().serve(method, path.partition("?")[0], headers, body)


def test_a_lead_whose_text_makes_no_request_is_a_dead_letter_and_the_others_orders_are_placed(
    house: Leadline,
) -> None:
    with TargetServer(Shop()) as shop:
        target = f'kind = "rest"\nurl = "{shop.url}/orders?product=${{entities.product}}"\n'
        house.set(
            f"{TENANTS}{SHORT_WAITS}\n[targets.create_order]\n{target}headers = {{ Note = 'by ${{text}}' }}\n"
        )
        house.run()
        long = {"product": "😀" * 5_500}
        house.publish([message("m-long", "+1", intent="ORDER_REQUEST", entities=long)])
        house.publish([order(f"m-{n}", f"+{n}") for n in (2, 3)] + [order("m-after", "+1")])
        house.wait_idle()
        assert [path for _, path, _, _ in shop.requests] == ["/orders?product=flour"] * 3
    [letter] = view(house.data, "dead_letter_queue")
    assert (letter["message_id"], letter["category"]) == ("m-long", "action_failed")
    assert "the url would have " in letter["error_message"]
    assert "${entities.product} alone has 66000" in letter["error_message"]
    assert [row["state"] for row in view(house.data, "breakers")] in ([], ["closed"])
