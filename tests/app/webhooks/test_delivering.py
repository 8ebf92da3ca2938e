"""Each event reaches each webhook that wants it, at least once and under one id, whatever the others do."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.db import transaction
from app.secret import derive
from app.tables import Delivery, Event, Key, Webhook
from app.webhooks import fan
from app.webhooks.fan import Outcome
from tests.app.service import BAD, Floor, until_settled
from tests.app.webhooks.receiver import Post, Receiver, row


def test_what_happens_to_a_request_is_told_signed_and_once(floor: Floor, post: Post, receiver: Receiver) -> None:
    floor.ask(1)  # before there was a webhook
    hook = post.hook(receiver.url, kinds=["request.*"])
    asked = floor.ask(2)
    post.run()
    floor.work()
    post.run()
    post.run()
    told = [(got.json["type"], got.json["data"]["request_id"]) for got in receiver.got]
    assert told[0] == ("request.received", asked), "what was before the webhook is not told"
    assert told.count(("request.received", asked)) == told.count(("request.published", asked)) == 1
    assert {kind.split(".")[0] for kind, _ in told} == {"request"}
    assert len({got.id for got in receiver.got}) == len(receiver.got)
    assert all(got.signed_by(hook["secret"]) for got in receiver.got)
    assert not receiver.got[-1].signed_by("whsec_" + "A" * 44)
    assert receiver.got[-1].headers["content-type"] == "application/json"
    data = next(got.json["data"] for got in receiver.got if got.json["type"] == "request.published")
    assert data["links"]["request"] == f"https://grail.example.com/v1/requests/{data['request_id']}"
    assert data["links"]["job"] == f"https://grail.example.com/v1/jobs/{data['job_id']}"
    assert data["state"] == "published" and data["served_model"] == "people"
    assert {delivery["state"] for delivery in post.deliveries(hook)} == {"delivered"}


def test_a_requester_is_told_of_its_own_and_an_operator_of_all(floor: Floor, post: Post, receiver: Receiver) -> None:
    own, all_of_it = post.hook(receiver.url), post.hook(receiver.url + "?all", role="operator")
    mine, others = floor.ask(1), floor.ask(2, role="other")
    post.run()
    seen = {
        path: {got.json["data"].get("request_id") for got in receiver.got if got.path == path}
        for path in ("/hook", "/hook?all")
    }
    assert seen == {"/hook": {mine}, "/hook?all": {mine, others}}
    assert own["id"] != all_of_it["id"]


def test_a_failed_delivery_is_tried_again_with_growing_waits_under_its_id_until_it_is_dead_and_may_be_replayed(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    hook = post.hook(receiver.url, kinds=["request.received"])
    floor.ask(1)
    receiver.status = 500
    started, waits = post.now, []
    schedule = post.settings.webhook_retry_seconds
    for _ in range(len(schedule) + 1):
        post.run()
        tried = post.now
        post.run()  # not due yet: nothing is sent
        (delivery,) = post.deliveries(hook)
        stored = row(post.db, Delivery, delivery["id"])
        waits.append((stored.next_at - tried).total_seconds())
        ended, post.now = tried, stored.next_at if delivery["state"] == "pending" else post.now
    assert len(receiver.got) == len(schedule) + 1 == delivery["attempts"]
    assert all(0.89 * s <= w <= 1.11 * s for s, w in zip(schedule, waits[:-1], strict=True))
    assert timedelta(hours=21) < ended - started < timedelta(hours=27)
    assert len({got.id for got in receiver.got}) == 1
    assert len({got.headers["webhook-timestamp"] for got in receiver.got}) == len(receiver.got)
    assert (delivery["state"], delivery["last_status"], delivery["last_error"]) == ("dead", 500, "status")
    assert post.deliveries(hook, state="dead") == [delivery] and post.deliveries(hook, state="pending") == []
    receiver.status = 200
    path = f"/v1/webhooks/{hook['id']}/deliveries/{delivery['id']}/replay"
    post.now += timedelta(days=1)
    assert floor.caller.call("requester", "POST", path, 202)["state"] == "pending"
    assert floor.caller.refused("requester", "POST", path) == (409, "still-pending")
    post.run()
    assert post.deliveries(hook)[0]["state"] == "delivered"
    assert len({got.id for got in receiver.got}) == 1
    assert floor.caller.call("requester", "GET", f"/v1/webhooks/{hook['id']}")["failing_since"] is None


@pytest.mark.parametrize("status", [200, 299])
def test_any_2xx_is_a_success(floor: Floor, post: Post, receiver: Receiver, status: int) -> None:
    hook, receiver.status = post.hook(receiver.url, kinds=["request.*"]), status
    floor.ask(1)
    post.run()
    assert post.deliveries(hook)[0]["state"] == "delivered"


def test_a_redirect_is_not_followed(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook = post.hook(receiver.url, kinds=["request.*"])
    receiver.status, receiver.extra = 307, {"Location": receiver.url + "/elsewhere"}
    floor.ask(1)
    post.run()
    assert [got.path for got in receiver.got] == ["/hook"]
    assert post.deliveries(hook)[0]["last_status"] == 307


def test_a_receiver_that_says_when_is_listened_to(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook = post.hook(receiver.url, kinds=["request.*"])
    receiver.status, receiver.extra = 429, {"Retry-After": "1000"}
    floor.ask(1)
    post.run()
    stored = row(post.db, Delivery, post.deliveries(hook)[0]["id"])
    assert (stored.next_at - post.now).total_seconds() == 1000


def test_a_receiver_that_is_gone_is_disabled_at_once_and_told_again_when_enabled(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    hook = post.hook(receiver.url, kinds=["request.*"])
    floor.ask(1)
    receiver.status = 410
    post.run()
    assert floor.caller.call("requester", "GET", f"/v1/webhooks/{hook['id']}")["disabled_at"]
    until_settled(floor.db)
    events = floor.caller.call("requester", "GET", "/v1/events", params={"kinds": "webhook.*"})["items"]
    assert [(e["kind"], e["data"]) for e in events] == [
        ("webhook.disabled", {"webhook_id": hook["id"], "reason": "gone"})
    ]
    assert floor.caller.call("other", "GET", "/v1/events", params={"kinds": "webhook.*"})["items"] == []
    floor.ask(2)
    post.run(3600)
    assert len(receiver.got) == 1
    for path in ("test", f"deliveries/{post.deliveries(hook)[0]['id']}/replay"):
        found = floor.caller.refused("requester", "POST", f"/v1/webhooks/{hook['id']}/{path}")
        assert found == (409, "webhook-disabled")
    receiver.status = 200
    assert floor.caller.call("requester", "POST", f"/v1/webhooks/{hook['id']}/enable")["disabled_at"] is None
    post.run(3600)
    assert {delivery["state"] for delivery in post.deliveries(hook)} == {"delivered"}
    assert len(post.deliveries(hook)) == 2


def test_one_that_fails_for_days_is_disabled_and_one_that_recovers_is_not(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    hook = post.hook(receiver.url, kinds=["request.received"])
    day = 86_400.0
    for number, status in enumerate([500, 500, 500, 200, 500, 500, 500, 500, 500]):
        receiver.status = status
        floor.ask(number + 1)
        post.run(day)
        assert row(post.db, Webhook, hook["id"]).disabled_at is None, number
    floor.ask(100)
    post.run(2 * day)
    assert row(post.db, Webhook, hook["id"]).disabled_at is not None


def test_a_slow_and_a_dead_receiver_hold_up_nobody(floor: Floor, post: Post, receiver: Receiver) -> None:
    """The slow one answers only once everybody else has everything."""
    everybody_has_it, waited = threading.Event(), list[bool]()
    with Receiver() as slow:
        slow.before_answer = lambda _: waited.append(everybody_has_it.wait(10))
        slow_hook = post.hook(slow.url, kinds=["request.received"])
        dead_hook = post.hook("http://127.0.0.1:1100/", kinds=["request.received"])
        quick_hook = post.hook(receiver.url, kinds=["request.received"])
        ids = {floor.ask(number) for number in range(1, 11)}

        def count(_: object) -> None:
            if {came.json["data"]["request_id"] for came in receiver.got} == ids:
                everybody_has_it.set()

        receiver.before_answer = count
        post.run()
        assert waited and all(waited)
    assert {delivery["state"] for delivery in post.deliveries(quick_hook)} == {"delivered"}
    assert {delivery["state"] for delivery in post.deliveries(slow_hook)} == {"delivered"}
    assert {(delivery["state"], delivery["last_error"]) for delivery in post.deliveries(dead_hook)} == {
        ("pending", "connection")
    }


def test_what_a_killed_sender_had_taken_is_sent_again_and_its_late_word_counts_for_nothing(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    hook = post.hook(receiver.url, kinds=["request.*"])
    floor.ask(1)
    until_settled(floor.db)
    with transaction(floor.db) as session:
        fan.fan_out(session, post.now)
    with transaction(floor.db) as session:
        (taken,) = fan.claim(session, post.now, post.settings, busy=(), per_webhook=4, limit=10)
    with transaction(floor.db) as session:
        assert fan.claim(session, post.now, post.settings, busy=(), per_webhook=4, limit=10) == []
    post.run()
    assert receiver.got == [], "its lease still runs"
    post.run(post.settings.lease_seconds + post.settings.webhook_timeout_seconds + 1)
    assert [got.id for got in receiver.got] == [taken.headers["webhook-id"]]
    with transaction(floor.db) as session:
        fan.settle(session, taken, Outcome(500, "status"), post.now, post.settings, 0.5)
    (delivery,) = post.deliveries(hook)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("delivered", 2, 204)
    assert row(post.db, Webhook, hook["id"]).failing_since is None


def test_two_senders_at_once_send_each_delivery_once(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook = post.hook(receiver.url, kinds=["request.received"])
    ids = {floor.ask(number) for number in range(1, 13)}
    other = Post(floor.caller, post.settings)
    threads = [threading.Thread(target=one.run) for one in (post, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    post.run()
    assert sorted(got.json["data"]["request_id"] for got in receiver.got) == sorted(ids)
    assert len(post.deliveries(hook)) == len(ids)


def test_events_are_fanned_out_once_however_many_pages_they_take(
    floor: Floor, post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan, "EVENTS_AT_ONCE", 3)
    post.hook(receiver.url)
    floor.ask(1)
    floor.work(BAD)
    floor.work()
    post.run()
    post.run()
    with floor.db.session_factory() as session:
        numbers = list(session.scalars(select(Event.id)))
    assert sorted(got.json["data"]["sequence"] for got in receiver.got) == sorted(numbers)
    assert len(numbers) > 10


def test_a_webhook_that_is_held_by_another_is_looked_at_again(floor: Floor, post: Post, receiver: Receiver) -> None:
    """As by who notes how a delivery to it ended: there is more to do, although nothing of it can be done now."""
    post.hook(receiver.url, kinds=["request.received"])
    floor.ask(1)
    with transaction(floor.db) as holder:
        holder.execute(select(Webhook.id).with_for_update())
        with transaction(floor.db) as session:
            assert fan.fan_out(session, post.sender.now(session)) is True
    with transaction(floor.db) as session:
        assert fan.fan_out(session, post.sender.now(session)) is False
    post.run()
    assert len(receiver.got) == 1


def test_after_a_restore_into_a_cluster_that_counts_anew_nothing_is_missed_or_told_twice(
    floor: Floor, post: Post, receiver: Receiver
) -> None:
    post.hook(receiver.url, kinds=["request.received"])
    before = [floor.ask(1)]
    post.run()
    before.append(floor.ask(2))  # not looked at when the dump was made
    with floor.db.session_factory() as session:
        reached = session.scalars(select(Webhook.after_id)).one()
    foreign = 10**12
    with transaction(floor.db) as session:
        session.execute(update(Event).values(xid=foreign + Event.id))
        session.execute(update(Webhook).values(after_xid=foreign + reached))
    after = floor.ask(3)
    with floor.db.engine.connect() as connection, connection.begin():
        assert connection.execute(select(Event.id).where(Event.xid > foreign)).all()
    post.sender.run()
    until_settled(floor.db)
    post.run()
    told = [got.json["data"]["request_id"] for got in receiver.got]  # several are told at once, in no order
    assert sorted(told) == sorted([*before, after])
    query = {"after": f"{foreign + reached}-{reached}", "kinds": "request.received"}
    page = floor.caller.call("requester", "GET", "/v1/events", params=query)
    assert [item["request_id"] for item in page["items"]] == [before[1], after]


def test_after_a_change_of_secret_both_sign_for_a_day(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook = post.hook(receiver.url, kinds=["request.received"])
    fresh = floor.caller.call("requester", "POST", f"/v1/webhooks/{hook['id']}/rotate-secret")
    assert fresh["secret"] != hook["secret"] and fresh["old_secret_until"]
    floor.ask(1)
    post.run()
    assert receiver.got[-1].signed_by(hook["secret"]) and receiver.got[-1].signed_by(fresh["secret"])
    floor.ask(2)
    post.run(25 * 3600)
    assert not receiver.got[-1].signed_by(hook["secret"]) and receiver.got[-1].signed_by(fresh["secret"])


def test_a_test_is_delivered_to_its_webhook_alone(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook, other = post.hook(receiver.url, kinds=["job.*"]), post.hook(receiver.url + "?other")
    made = floor.caller.call("requester", "POST", f"/v1/webhooks/{hook['id']}/test", 202)
    post.run()
    (got,) = receiver.got
    assert (got.path, got.json["type"], got.id) == ("/hook", "webhook.test", made["message_id"])
    assert got.signed_by(hook["secret"])
    assert post.deliveries(hook)[0]["state"] == "delivered" and post.deliveries(other) == []


def test_a_revoked_keys_webhooks_are_told_nothing(floor: Floor, post: Post, receiver: Receiver) -> None:
    post.hook(receiver.url)
    floor.ask(1)
    with transaction(floor.db) as session:
        for key in session.scalars(select(Key).where(Key.name == "requester")):
            key.revoked_at = post.now
    post.run()
    assert receiver.got == []


def test_a_secret_is_one_webhooks_alone_and_stored_nowhere(floor: Floor, post: Post, receiver: Receiver) -> None:
    one, two = post.hook(receiver.url), post.hook(receiver.url)
    assert one["secret"] != two["secret"] and len(one["secret"]) == len("whsec_") + 44
    assert "secret" not in floor.caller.call("requester", "GET", f"/v1/webhooks/{one['id']}")
    stored = str(vars(row(post.db, Webhook, one["id"])))
    assert one["secret"] not in stored and derive("webhook", uuid.UUID(one["id"]), 1).hex() not in stored


def test_only_its_owner_and_an_admin_see_a_webhook(floor: Floor, post: Post, receiver: Receiver) -> None:
    hook, path = post.hook(receiver.url), "/v1/webhooks"
    for role in ("other", "operator", "officer"):
        assert floor.caller.call(role, "GET", path)["items"] == []
        for method, where in (
            ("GET", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/enable"), ("POST", "/test"),
            ("GET", "/deliveries"), ("POST", f"/deliveries/{hook['id']}/replay"),
        ):  # fmt: skip
            assert floor.caller.refused(role, method, f"{path}/{hook['id']}{where}") == (404, "not-found")
    assert [seen["id"] for seen in floor.caller.call("admin", "GET", path)["items"]] == [hook["id"]]
    floor.ask(1)
    post.run()
    assert floor.caller.send("requester", "DELETE", f"{path}/{hook['id']}").status_code == 204
    assert floor.caller.refused("requester", "GET", f"{path}/{hook['id']}") == (404, "not-found")


def test_a_key_has_so_many_webhooks_and_no_more(floor: Floor, post: Post, receiver: Receiver) -> None:
    for _ in range(post.settings.webhooks_per_key):
        post.hook(receiver.url)
    found = floor.caller.refused("requester", "POST", "/v1/webhooks", json={"url": receiver.url})
    assert found == (409, "too-many-webhooks")
    post.hook(receiver.url, role="other")
