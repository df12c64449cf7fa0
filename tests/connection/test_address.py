"""URLs: what they may contain, and that no error quotes a part of them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connection.traces import full_text
from penstock._connection.address import Address, find_url, parse
from penstock._connection.endpoint import Endpoint, Login
from penstock._connection.tls import Tls
from penstock.errors import ConfigurationError


def refusal(url: str) -> str:
    """Return the message of the error; check that nothing in it has the secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert "hunter2" not in full_text(caught.value)
    return str(caught.value)


# --- the address of the server


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "localhost:6379"),
        ("redis://localhost:", "localhost:6379"),
        ("redis://cache.example:7000/3", "cache.example:7000"),
        ("redis://user:hunter2@cache.example:7000", "cache.example:7000"),
        ("rediss://cache.example", "cache.example:6379"),
        ("REDIS://Cache.Example", "cache.example:6379"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("unix://user:hunter2@/run/redis.sock?db=2", "/run/redis.sock"),
        ("unix:///run/a%20b.sock", "/run/a b.sock"),
        ("redis://[::1]:7000", "[::1]:7000"),
        ("redis://[fe80::1]", "[fe80::1]:6379"),
    ],
)
def test_the_name_is_the_address_of_the_server(url: str, name: str) -> None:
    assert parse(url).name == name


@pytest.mark.parametrize("url", ["redis://ho%0ast:1", "unix:///run/a%1b%0ab"])
def test_a_name_has_no_control_character(url: str) -> None:
    assert parse(url).name.isprintable()


def test_schemes_choose_the_kind_of_connection() -> None:
    assert parse("redis://h").endpoint == Endpoint("h")
    assert parse("rediss://h").endpoint == Endpoint("h", tls=Tls({}))
    assert parse("unix:///run/s").endpoint == Endpoint(path="/run/s")
    full = parse("valkey://al:p%40ss@h/2")
    assert (full.endpoint, full.login) == (Endpoint("h"), Login("al", "p@ss", 2))
    assert parse("VALKEYS://h").endpoint == Endpoint("h", tls=Tls({}))


def test_host_port_and_path_are_those_of_the_endpoint() -> None:
    assert parse("redis://cache.example:7000").endpoint == Endpoint(
        "cache.example", 7000
    )
    assert parse("redis://[::1]:7000").endpoint == Endpoint("::1", 7000)
    assert parse("unix:///run/a%20b.sock").endpoint == Endpoint(path="/run/a b.sock")


def test_user_password_and_database_are_used_in_the_login() -> None:
    login = parse("redis://al%40ce:p%2Fw%23d%3A%C3%A9%25@h/7").login
    assert login == Login("al@ce", "p/w#d:é%", 7)


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://h", 0),
        ("redis://h/", 0),
        ("redis://h/15", 15),
        ("redis://h/15/", 15),
        ("redis://h?db=4", 4),
        ("redis://h/3?db=4", 4),
        ("unix:///run/s?db=4", 4),
    ],
)
def test_the_database_is_in_the_path_or_in_the_query(url: str, database: int) -> None:
    assert parse(url).login.database == database


def test_a_password_may_be_given_without_a_user_and_in_the_query() -> None:
    assert parse("redis://:hunter2@h").login == Login(None, "hunter2")
    url = "redis://h?username=al&password=h%26r%2520"
    assert parse(url).login == Login("al", "h&r%20")


def test_an_unescaped_at_sign_or_colon_in_a_password_is_accepted() -> None:
    assert parse("redis://al:p@ss:word@h:1").login.password == "p@ss:word"


# --- no URL


def test_a_given_url_takes_precedence_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://environment")
    assert find_url("redis://given") == "redis://given"
    assert find_url(None) == "redis://environment"


@pytest.mark.parametrize("around", ["{} ", "{}\n", " {}\r\n", "\t{}\n\n"])
def test_white_space_around_a_url_is_removed(
    around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and secrets of orchestrators often end in a newline."""
    url = "redis://al:p%20w@h/3"
    monkeypatch.setenv("REDIS_URL", around.format(url))
    assert find_url(None) == url
    assert find_url(around.format(url)) == url


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_without_a_url_the_error_names_the_three_ways_to_give_one(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("REDIS_URL", value)
    with pytest.raises(ConfigurationError) as caught:
        find_url(None)
    for way in ("url='redis://", "REDIS_URL", "embedded://"):
        assert way in str(caught.value)


# --- wrong URLs


@pytest.mark.parametrize(
    "url", ["http://h", "h:6379", "localhost", "", "  ", "redis+tls://h", "://h"]
)
def test_another_scheme_is_refused_and_the_right_ones_are_named(url: str) -> None:
    message = refusal(url)
    for scheme in ("redis://", "rediss://", "unix://", "embedded://"):
        assert scheme in message


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("localhost", "redis://localhost:6379"),
        ("localhost:6380/2", "redis://localhost:6380/2"),
        ("redis:6379", "redis://redis:6379"),
        ("valkey:6379", "redis://valkey:6379"),
        ("10.0.0.7:7000/0", "redis://10.0.0.7:7000/0"),
        ("[::1]:6379", "redis://[::1]:6379"),
        ("cache-1.example:6379", "redis://cache-1.example:6379"),
    ],
)
def test_a_host_without_a_scheme_is_answered_with_its_url(url: str, right: str) -> None:
    assert f"write {right} (" in refusal(url)


@pytest.mark.parametrize(
    "url", ["al:hunter2@h:6379", ":hunter2@h", "hunter2", "al:hunter2", "hunter2/6379"]
)
def test_what_may_be_a_password_is_not_repeated_as_a_host(url: str) -> None:
    assert "redis://" in refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:port",
        "redis://h:70000",
        "redis://h:-1",
        "redis://h:6379:6380",
        "redis://h:0",
        "redis://[::1",
        "redis://[nonsense]",
    ],
)
def test_an_invalid_port_or_host_is_refused(url: str) -> None:
    assert "port" in refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://:6379",
        "redis://user:hunter2@",
        "redis://:hunter2@:6379/0",
        "rediss:///",
    ],
)
def test_a_url_without_a_host_does_not_mean_localhost(url: str) -> None:
    """That could be a wrong database; `redis://:$PASSWORD@$HOST` loses its host."""
    assert "no host" in refusal(url)


@pytest.mark.parametrize(
    "url", ["unix://", "unix://run/redis.sock", "unix://user:hunter2@run/redis.sock"]
)
def test_a_socket_needs_a_full_path(url: str) -> None:
    assert "unix:///run/redis.sock" in refusal(url)


@pytest.mark.parametrize("url", ["redis://h/zero", "redis://h/0x1", "redis://h/-1"])
def test_a_database_that_is_not_a_number_is_refused(url: str) -> None:
    assert "database" in refusal(url)


UNESCAPED = [
    "/hunter2",
    "hunter2/",
    "hunter2/0",
    "12/hunter2",
    "#hunter2",
    "hunter2#",
    "12#hunter2",
    "0/1#hunter2",
    "?hunter2",
    "hunter2?",
    "12?hunter2",
    "12?x=hunter2",
    "12?db=hunter2",
    "12?socket_timeout=hunter2",
    "12?ssl_cert_reqs=hunter2",
    "12?protocol=hunter2",
    "[hunter2",
    "]hunter2",
    "[hunter2]",
    "hunter2\u2100",
    "hunter2\t",
    "\nhunter2",
    "hunter2\udc80",
]


@pytest.mark.parametrize(
    "frame",
    [
        "redis://user:{}@h:6379/0",
        "redis://:{}@h",
        "rediss://user:{}@h/0",
        "unix://user:{}@/run/s",
        "unix://:{}@/run/s",
    ],
)
@pytest.mark.parametrize("password", UNESCAPED, ids=ascii)
def test_an_unescaped_character_in_a_password_is_refused_and_not_quoted(
    password: str, frame: str
) -> None:
    assert "percent-encode" in refusal(frame.format(password)) or "?" in password


@pytest.mark.parametrize(
    "query",
    [
        "hunter2",
        "nonsense=hunter2",
        "host=hunter2",
        "port=1",
        "path=/hunter2",
        # Parameters of redis-py's connections that are not text: they would be
        # accepted, and fail on connecting.
        "redis_connect_func=hunter2",
        "credential_provider=hunter2",
        "event_dispatcher=hunter2",
        "retry=hunter2",
        "retry_on_error=hunter2",
        "encoder_class=hunter2",
        "parser_class=hunter2",
        "connection_class=hunter2",
        "driver_info=hunter2",
        "encoding=utf-16",
    ],
)
def test_an_unknown_option_in_a_url_is_refused(query: str) -> None:
    message = refusal(f"redis://h?{query}")
    assert "option" in message
    assert "socket_timeout" in message


@pytest.mark.parametrize(
    "query",
    [
        "db=zero",
        "protocol=three",
        "protocol=4",
        "protocol=1",
        "socket_timeout=soon",
        "ssl_cert_reqs=hunter2",
        "ssl_cert_reqs=CERT_hunter2",
        "ssl_cert_reqs=3",
        "client_name=a%20b",
        "client_name=a%0Ab",
        "client_name=%C3%A9",
        "db=-1",
        "db=99999999999",
        "ssl_min_version=hunter2",
    ],
)
def test_an_invalid_value_of_an_option_is_refused(query: str) -> None:
    message = refusal(f"rediss://h?{query}")
    name = query.partition("=")[0]
    assert name[:3] in message or (name == "db" and "database" in message)
    assert "port" not in message


@pytest.mark.parametrize("form", ["{}", "CERT_{}", "ssl.CERT_{}", "VerifyMode.CERT_{}"])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("word", ["none", "optional", "required"])
def test_the_spellings_of_other_clients_of_ssl_cert_reqs_work(
    form: str, case: Callable[[str], str], word: str
) -> None:
    """Celery and Django settings have CERT_NONE, redis-py's URLs `none`."""
    expected = getattr(ssl, f"CERT_{word.upper()}")
    for value in (case(form.format(word)), int(expected)):
        tls = parse(f"rediss://h?ssl_cert_reqs={value}").endpoint.tls
        assert tls is not None
        assert tls.cert_reqs is expected


@pytest.mark.parametrize("scheme", ["redis://h", "unix:///run/s"])
def test_options_of_tls_are_refused_without_tls(scheme: str) -> None:
    assert "rediss://" in refusal(f"{scheme}?ssl_cert_reqs=none")


# --- options


def test_settings_of_other_clients_are_ignored() -> None:
    query = (
        "decode_responses=True&health_check_interval=30&legacy_responses=False&"
        "max_connections=10&retry_on_timeout=True&timeout=3"
    )
    assert parse(f"redis://h?{query}") == parse("redis://h")
    assert parse(f"redis://h?{query}").login == Login()


def test_the_timeouts_are_five_and_ten_seconds_unless_the_url_has_others() -> None:
    address = parse("redis://h")
    assert (address.connect_timeout, address.reply_timeout) == (5.0, 10.0)
    address = parse("redis://h?socket_connect_timeout=0.2&socket_timeout=3")
    assert (address.connect_timeout, address.reply_timeout) == (0.2, 3.0)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "1e300"])
@pytest.mark.parametrize("option", ["socket_timeout", "socket_connect_timeout"])
def test_an_invalid_timeout_in_a_url_is_refused(option: str, value: str) -> None:
    assert option in refusal(f"redis://h?{option}={value}")


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_protocol_can_be_chosen(protocol: int) -> None:
    assert parse(f"redis://h?protocol={protocol}").login.protocol == protocol


@pytest.mark.parametrize(("text", "on"), [("no", False), ("False", False), ("1", True)])
def test_keepalives_can_be_chosen(text: str, *, on: bool) -> None:
    assert parse(f"redis://h?socket_keepalive={text}").endpoint.keepalive is on


def test_tls_options_get_into_the_context() -> None:
    query = (
        "ssl_check_hostname=no&ssl_min_version=772&ssl_cert_reqs=optional"
        "&ssl_include_verify_flags=[VERIFY_X509_STRICT, VERIFY_CRL_CHECK_LEAF]"
        "&ssl_exclude_verify_flags=VERIFY_X509_TRUSTED_FIRST"
        "&ssl_ciphers=ECDHE-RSA-AES256-GCM-SHA384"
    )
    tls = parse(f"rediss://h?{query}").endpoint.tls
    assert tls is not None
    context = tls.context()
    assert context.check_hostname is False
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert not context.verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST
    names = [each["name"] for each in context.get_ciphers()]
    assert "ECDHE-RSA-AES256-GCM-SHA384" in names
    assert "ECDHE-RSA-AES128-GCM-SHA256" not in names


def test_without_options_certificates_and_names_are_checked() -> None:
    tls = parse("rediss://h").endpoint.tls
    assert tls is not None
    context = tls.context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    tls = parse("rediss://h?ssl_cert_reqs=none").endpoint.tls
    assert tls is not None
    assert not tls.context().check_hostname


# --- secrets

CANARY = "hunter2-canary"


def test_no_repr_contains_the_password() -> None:
    address = parse(f"redis://user:{CANARY}@h/3?client_name=me")
    assert CANARY not in repr(address) + str(address)
    address = parse(f"rediss://h?ssl_password={CANARY}&password={CANARY}")
    assert CANARY not in repr(address) + str(address)


NASTY = st.sampled_from(
    ["12/", "12#", "12?", "/", "#", "?", "[", "]", "@", ":", "%", "\\", "12?db=", "0/1"]
)


@example(around=("12/", "@/x"), encoded=False, user="", kind="unix")
@example(around=("12#", ""), encoded=False, user="", kind="redis")
@example(around=("12?", ""), encoded=False, user="u", kind="redis")
@given(
    around=st.tuples(st.one_of(NASTY, st.text()), st.one_of(NASTY, st.text())),
    encoded=st.booleans(),
    user=st.sampled_from(["", "user", "a%40b"]),
    kind=st.sampled_from(["redis", "rediss", "unix"]),
)
def test_any_password_works_or_is_refused_and_is_never_quoted(
    around: tuple[str, str], *, encoded: bool, user: str, kind: str
) -> None:
    password = f"{around[0]}{CANARY}{around[1]}"
    text = quote(password, safe="") if encoded else password
    place = "/run/redis.sock" if kind == "unix" else "h:6379/0"
    url = f"{kind}://{user}:{text}@{place}"
    refused: Exception | None = None
    try:
        address = parse(url)
    except ConfigurationError as error:
        refused = error
    if refused is not None:
        assert not encoded
        assert CANARY not in full_text(refused)
        return
    assert address.login.password == unquote(text)
    assert address.name == ("/run/redis.sock" if kind == "unix" else "h:6379")
    assert CANARY not in repr(address) + repr(address.login)


def test_addresses_of_the_same_server_are_equal_whatever_the_password() -> None:
    one, other = parse("redis://:a@h"), parse("redis://:b@h")
    assert one == other
    assert isinstance(one, Address)
