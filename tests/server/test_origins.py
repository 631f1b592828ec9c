"""The policy of the door, without a server."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError, MediaTypeError, RefusedError, UnauthorizedError
from sdmanager.server.origins import DoorPolicy, RequestFacts, is_loopback, judge

LISTED = "http://app.example:3000"
PLAIN = DoorPolicy.build("127.0.0.1", 8081)


def basic(credentials):
    return f"Basic {base64.b64encode(credentials.encode('utf-8', 'surrogateescape')).decode()}"


def judged(policy=PLAIN, method="GET", target="/health", host="127.0.0.1:8081", **facts):
    hosts = [host] if isinstance(host, str) else host
    error = judge(policy, RequestFacts(method, target, hosts, **facts))
    return None if error is None else type(error)


class TestBuilding:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
    def test_a_loopback_address_needs_no_token(self, host):
        assert is_loopback(host)
        assert DoorPolicy.build(host, 8081).token is None

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "", "192.168.1.5", "127.1", "box.local", "localhost.evil.example"]
    )
    def test_any_other_address_needs_one(self, host):
        assert not is_loopback(host)
        with pytest.raises(InvalidRequestError, match="without a token"):
            DoorPolicy.build(host, 8081)
        assert DoorPolicy.build(host, 8081, token="s3cret").token == "s3cret"

    @pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "tökén", "a\x7f", "\udc80"])
    def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(self, token):
        with pytest.raises(InvalidRequestError) as caught:
            DoorPolicy.build("127.0.0.1", 8081, token=token)
        assert token.strip() == "" or token not in caught.value.message

    @pytest.mark.parametrize(
        "origin",
        ["*", "null", "", "http://", "app.example", "//app.example", "http://a.example/", "http://a.example/x",
         "http://a@b.example", "http://a.example:", "http://a.example:1234567", "http://a.example?x", "http://a b",
         "http://*.example", "file://", "http://a.example\n", "http://exämple.org"],
    )  # fmt: skip
    def test_what_is_no_origin_is_refused(self, origin):
        with pytest.raises(InvalidRequestError):
            DoorPolicy.build("127.0.0.1", 8081, allow_origin=[origin])

    @pytest.mark.parametrize(
        ("given_as", "kept_as"),
        [
            ("HTTP://App.Example:3000", "http://app.example:3000"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("https://a.example:80", "https://a.example:80"),
            ("http://[::1]:5173", "http://[::1]:5173"),
            ("tauri://localhost", "tauri://localhost"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ],
    )
    def test_origins_are_kept_as_browsers_send_them(self, given_as, kept_as):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_origin=[given_as])
        assert policy.allowed_origins == {kept_as}
        assert judged(policy, origins=[kept_as]) is None

    @pytest.mark.parametrize(
        "name", ["*", "", "a.example:80", "http://a.example", "a/b", "a b", "[::1]:8081"]
    )
    def test_what_is_no_name_of_a_host_is_refused(self, name):
        with pytest.raises(InvalidRequestError):
            DoorPolicy.build("127.0.0.1", 8081, allow_host=[name])

    def test_the_token_is_not_shown(self):
        assert "s3cret" not in repr(DoorPolicy.build("127.0.0.1", 8081, token="s3cret"))


class TestHosts:
    @pytest.mark.parametrize("host", ["127.0.0.1:8081", "localhost:8081", "LocalHost:8081", "[::1]:8081"])
    def test_our_names_with_our_port_come_in(self, host):
        assert judged(host=host) is None

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.0.0.1:80", "127.0.0.1:8082", "localhost", "evil.example:8081", "localhost.evil.example:8081",
         "localhost.:8081", "127.0.0.2:8081", "192.168.1.5:8081", "0.0.0.0:8081", "2130706433:8081", "::1:8081",
         "[::1:8081", "[::ffff:127.0.0.1]:8081", "127.0.0.1:08081", "127.0.0.1:8081:8081", "a@127.0.0.1:8081",
         "127.0.0.1:8081, evil.example", "127.0.0.1:8081/", "", " ", ":8081", "\udc80:8081"],
    )  # fmt: skip
    def test_others_do_not(self, host):
        assert judged(host=host) is RefusedError

    def test_a_missing_or_doubled_host_does_not_come_in(self):
        assert judged(host=[]) is RefusedError
        assert judged(host=["127.0.0.1:8081", "127.0.0.1:8081"]) is RefusedError

    def test_a_default_port_may_be_left_out(self):
        policy = DoorPolicy.build("127.0.0.1", 80)
        assert judged(policy, host="localhost", origins=["http://localhost"]) is None
        assert judged(policy, host="localhost:80") is None

    def test_the_host_that_is_listened_on_is_ours(self):
        policy = DoorPolicy.build("192.168.1.5", 8081, token="t")
        shown = {"authorizations": ["Bearer t"]}
        assert judged(policy, host="192.168.1.5:8081", **shown) is None
        assert judged(policy, host="192.168.1.6:8081", **shown) is RefusedError
        six = DoorPolicy.build("fd00::5", 8081, token="t")
        assert judged(six, host="[fd00::5]:8081", **shown) is None

    @pytest.mark.parametrize("wildcard", ["0.0.0.0", "::", ""])
    def test_on_all_addresses_an_address_is_enough_but_a_name_is_not(self, wildcard):
        policy = DoorPolicy.build(wildcard, 8081, token="t")
        shown = {"authorizations": ["Bearer t"]}
        assert judged(policy, host="192.168.1.5:8081", **shown) is None
        assert judged(policy, host="[fd00::5]:8081", **shown) is None
        for host in ("192.168.1.5:80", "192.168.1.5", "evil.example:8081", "999.1.1.1:8081"):
            assert judged(policy, host=host, **shown) is RefusedError, host

    def test_names_that_the_user_allows_come_in_with_any_port(self):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_host=["Box.Local", "::5"])
        for host in ("box.local", "box.local:443", "BOX.local:8081", "[::5]:9000"):
            assert judged(policy, host=host) is None, host
        for host in ("box.local.evil.example", "xbox.local", "box.local:x"):
            assert judged(policy, host=host) is RefusedError, host

    def test_a_target_with_a_host_of_its_own_is_judged_by_it_too(self):
        assert judged(target="http://127.0.0.1:8081/health") is None
        assert judged(target="*", method="OPTIONS") is None
        for target in ("http://evil.example/health", "evil.example:443", "http://[", "x"):
            assert judged(target=target) is RefusedError, target


class TestSources:
    @pytest.mark.parametrize(
        "origin", ["http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081", LISTED]
    )
    def test_our_own_pages_and_listed_ones_come_in(self, origin):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_origin=[LISTED])
        assert judged(policy, method="DELETE", origins=[origin]) is None

    @pytest.mark.parametrize(
        "origin",
        ["null", "", "http://evil.example", "http://127.0.0.1", "https://127.0.0.1:8081", "http://127.0.0.1:8082",
         "http://127.0.0.1:8081/", "http://localhost:8081.evil.example", LISTED + "0", LISTED + "/", "file://",
         LISTED + ", " + LISTED],
    )  # fmt: skip
    def test_others_do_not(self, origin):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_origin=[LISTED])
        for method in ("GET", "DELETE", "OPTIONS"):
            assert judged(policy, method=method, origins=[origin]) is RefusedError

    def test_a_doubled_origin_does_not_come_in(self):
        own = "http://127.0.0.1:8081"
        assert judged(origins=[own, own]) is RefusedError
        assert judged(origins=[own, "http://evil.example"]) is RefusedError

    def test_an_address_of_somebody_else_is_not_our_page(self):
        policy = DoorPolicy.build("0.0.0.0", 8081, token="t")
        shown = {"authorizations": ["Bearer t"], "host": "192.168.1.5:8081"}
        assert judged(policy, origins=["http://192.168.1.5:8081"], **shown) is None
        assert judged(policy, origins=["http://6.6.6.6:8081"], **shown) is RefusedError

    def test_our_page_behind_a_proxy_comes_in(self):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_host=["box.example"])
        assert judged(policy, host="box.example", origins=["https://box.example"]) is None
        assert judged(policy, host="box.example", origins=["https://other.example"]) is RefusedError

    def test_other_sites_may_only_open_the_page(self):
        cross = {"fetch_sites": ["cross-site"]}
        navigating = {**cross, "fetch_modes": ["navigate"]}
        assert judged(target="/", **navigating) is None
        assert judged(target="/?x=1", fetch_dests=["document"], **navigating) is None
        assert judged(target="/", fetch_dests=["iframe"], **navigating) is RefusedError
        assert judged(target="/health", **navigating) is RefusedError
        posting = {"method": "POST", "content_types": ["application/json"]}
        assert judged(target="/", **posting, **navigating) is RefusedError
        assert judged(target="/", fetch_modes=["no-cors"], **cross) is RefusedError
        assert judged(target="/", **cross) is RefusedError
        assert judged(fetch_sites=["none", "cross-site"]) is RefusedError

    def test_a_page_of_a_listed_origin_is_told_how_to_load_pictures(self):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_origin=[LISTED])
        facts = RequestFacts(
            "GET", "/x", ["127.0.0.1:8081"], fetch_sites=["cross-site"], fetch_modes=["no-cors"]
        )
        assert "crossorigin" in judge(policy, facts).hint

    @pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
    def test_what_browsers_do_for_their_user_comes_in(self, site):
        assert judged(fetch_sites=[site], fetch_modes=["cors"]) is None

    def test_a_listed_origin_may_be_another_site(self):
        policy = DoorPolicy.build("127.0.0.1", 8081, allow_origin=[LISTED])
        assert judged(policy, origins=[LISTED], fetch_sites=["cross-site"]) is None
        assert judged(policy, origins=["http://127.0.0.1:8081"], fetch_sites=["cross-site"]) is RefusedError


class TestTokens:
    policy = DoorPolicy.build("127.0.0.1", 8081, token="s3cret")

    @pytest.mark.parametrize("value", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret"])
    def test_the_token_opens(self, value):
        assert judged(self.policy, authorizations=[value]) is None

    @pytest.mark.parametrize(
        "values",
        [[], [""], ["s3cret"], ["Bearer"], ["Bearer "], ["Bearer S3CRET"], ["Bearer s3cret x"], ["Basic s3cret"],
         ["Bearer s3cret", "Bearer wrong"], ["Bearer s3cre"], ["Bearer s3cret\udc80"], ["Bearer\ts3cret"]],
    )  # fmt: skip
    def test_nothing_else_does(self, values):
        assert judged(self.policy, authorizations=values) is UnauthorizedError

    @pytest.mark.parametrize(
        "value",
        [basic(":s3cret"), basic("anybody:s3cret"), basic("us\udcffer:s3cret"), "basic  OnMzY3JldA=="],
    )
    def test_the_password_of_basic_opens_whoever_it_is(self, value):
        assert judged(self.policy, authorizations=[value]) is None
        assert judged(self.policy, method="DELETE", authorizations=[value]) is None

    def test_a_token_may_have_colons(self):
        policy = DoorPolicy.build("127.0.0.1", 8081, token="a:b:")
        assert judged(policy, authorizations=[basic("user:a:b:")]) is None
        assert judged(policy, authorizations=[basic("a:b:")]) is UnauthorizedError

    @pytest.mark.parametrize(
        "value",
        [basic("s3cret"), basic("s3cret:"), basic(":"), basic(""), basic(":S3cret"), basic(":s3cret\n"),
         basic(": s3cret"), "Basic :s3cret", "Basic", "Basic ", "Basic %%%", "Basic OnMzY3JldA", "Basic OnMzY3JldA==x",
         "Basic \udcff", "Basic Onmz Y3JldA==", "Basic/OnMzY3JldA==", "Basic " + "A" * 30_000, "Digest s3cret"],
    )  # fmt: skip
    def test_other_passwords_and_what_is_no_basic_do_not(self, value):
        assert judged(self.policy, authorizations=[value]) is UnauthorizedError

    def test_a_wrong_password_spoils_a_right_token(self):
        for other in ({"query_tokens": ["s3cret"]}, {"authorizations": ["Bearer s3cret"]}):
            shown = [*other.pop("authorizations", []), basic("x:wrong")]
            assert judged(self.policy, authorizations=shown, **other) is UnauthorizedError

    def test_an_empty_basic_shows_nothing(self):
        for value in (basic(":"), basic("user:"), "Basic", ""):
            assert judged(self.policy, query_tokens=["s3cret"], authorizations=[value]) is None

    def test_the_page_itself_needs_none_and_nothing_else_is_exempt(self):
        for target in ("/", "/?", "/?x=1&token=wrong"):
            for method in ("GET", "HEAD"):
                assert judged(self.policy, method=method, target=target) is None
                assert judged(self.policy, method=method, target=target, host="evil.example") is RefusedError
                assert judged(self.policy, method=method, target=target, origins=["null"]) is RefusedError
                assert (
                    judged(self.policy, method=method, target=target, fetch_sites=["cross-site"])
                    is RefusedError
                )
            for method in ("POST", "DELETE", "PUT", "get"):
                assert judged(self.policy, method=method, target=target) is UnauthorizedError
        for target in ("//", "/./", "/#", "/;", "/%2f", "/index.html", "/health", "/metrics", "*",
                       "http://127.0.0.1:8081/", "http://127.0.0.1:8081", "//127.0.0.1:8081/"):  # fmt: skip
            assert judged(self.policy, target=target) is UnauthorizedError, target

    def test_a_query_opens_for_what_only_reads(self):
        for method in ("GET", "HEAD"):
            assert judged(self.policy, method=method, query_tokens=["s3cret"]) is None
        assert judged(self.policy, query_tokens=["s3cret"], authorizations=["Basic Og==", ""]) is None
        for method in ("POST", "DELETE"):
            assert judged(self.policy, method=method, query_tokens=["s3cret"]) is UnauthorizedError
        for tokens in (["wrong"], ["s3cret", "wrong"], ["wrong", "s3cret"], ["töken"]):
            assert judged(self.policy, query_tokens=tokens) is UnauthorizedError

    def test_it_may_be_shown_twice_but_not_with_another(self):
        assert judged(self.policy, query_tokens=["s3cret"], authorizations=["Bearer s3cret"]) is None
        assert judged(self.policy, query_tokens=["s3cret", "s3cret"]) is None
        assert (
            judged(self.policy, query_tokens=["wrong"], authorizations=["Bearer s3cret"]) is UnauthorizedError
        )
        assert (
            judged(self.policy, query_tokens=["s3cret"], authorizations=["Bearer wrong"]) is UnauthorizedError
        )

    def test_asking_what_is_allowed_needs_none(self):
        assert judged(self.policy, method="OPTIONS") is None

    def test_without_a_token_whatever_is_shown_is_ignored(self):
        assert judged(authorizations=["Basic Og=="], query_tokens=["x"]) is None

    def test_the_order_is_host_origin_token_content_type(self):
        bad = {"method": "POST", "host": "x", "origins": ["null"], "content_types": []}
        assert judged(self.policy, **bad) is RefusedError
        assert judged(self.policy, **{**bad, "host": "127.0.0.1:8081"}) is RefusedError
        assert judged(self.policy, **{**bad, "host": "127.0.0.1:8081", "origins": []}) is UnauthorizedError
        assert judged(method="POST") is MediaTypeError


class TestContentTypes:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_bodies_must_be_json_or_forms(self, method):
        for value in (
            "application/json",
            "Application/JSON; charset=utf-8",
            "multipart/form-data; boundary=x",
        ):
            assert judged(method=method, content_types=[value]) is None, value
        for value in ("", "text/plain", "application/x-www-form-urlencoded", "application/json, text/plain", "json",
                      "text/plain; application/json", "application/jsonx", "multipart/mixed"):  # fmt: skip
            assert judged(method=method, content_types=[value]) is MediaTypeError, value
        assert judged(method=method, content_types=["application/json", "application/json"]) is MediaTypeError

    @pytest.mark.parametrize(
        "target", ["/sdapi/v1/interrupt", "/sdapi/v1/skip?x=1", "//sdapi//v1/interrupt/"]
    )
    def test_what_has_no_body_needs_none_where_clients_send_none(self, target):
        bare = {"method": "POST", "target": target}
        assert judged(**bare, has_body=False) is None
        assert judged(**bare) is MediaTypeError
        assert judged(**bare, has_body=False, content_types=["text/plain"]) is MediaTypeError
        assert judged(**bare, has_body=False, content_types=["application/json"]) is None
        # What aiohttp says of no body; a page can say it only after it has asked.
        assert judged(**bare, has_body=False, content_types=["application/octet-stream"]) is None
        assert judged(**bare, content_types=["application/octet-stream"]) is MediaTypeError
        for simple in (
            ["application/x-www-form-urlencoded"],
            ["text/plain"],
            [""],
            ["application/octet-stream"] * 2,
        ):
            assert judged(**bare, has_body=False, content_types=simple) is MediaTypeError, simple
        assert judged(**bare, has_body=False, origins=["null"]) is RefusedError
        assert judged(**bare, has_body=False, fetch_sites=["cross-site"]) is RefusedError

    @pytest.mark.parametrize(
        "target", ["/v1/jobs", "/sdapi", "/sdapiv1", "/x/sdapi/v1", "/SDAPI/v1/skip", "sdapi/"]
    )
    def test_elsewhere_it_needs_one(self, target):
        policy = DoorPolicy.build("127.0.0.1", 8081)
        for types in ([], ["application/octet-stream"]):
            facts = RequestFacts("POST", target, ["127.0.0.1:8081"], content_types=types, has_body=False)
            assert isinstance(judge(policy, facts), MediaTypeError | RefusedError), types

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
    def test_other_methods_need_none(self, method):
        assert judged(method=method, content_types=["text/plain"]) is None


@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT"]),
    target=st.text(max_size=30),
    lists=st.lists(st.lists(st.text(max_size=12), max_size=2), min_size=8, max_size=8),
)
def test_no_request_makes_the_judge_stumble_and_only_our_hosts_come_in(method, target, lists):
    policy = DoorPolicy.build("0.0.0.0", 8081, token="t", allow_origin=[LISTED], allow_host=["box.local"])
    error = judge(policy, RequestFacts(method, target, *lists))
    assert error is not None or "8081" in lists[0][0] or "box.local" in lists[0][0]
