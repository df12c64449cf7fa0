"""Settings are read from environment variables and from the files that they name."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from penstock import AccessError, ConfigurationError, Producer
from penstock.settings import _OTHERS, Settings, from_env

SOURCE = Path(__file__).parents[1] / "src"


class Shop(Settings, kw_only=True):
    max_orders: int = 100
    region: str


def test_without_variables_all_values_are_defaults() -> None:
    settings = from_env(environ={"PATH": "/bin"})
    assert (settings.url, settings.credentials) == (None, None)


async def test_values_come_from_variables_or_from_files(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://cache:6379/2\n")
    variables = {
        "PENSTOCK_URL_FILE": str(file),
        "PENSTOCK_USERNAME": " shop ",
        "PENSTOCK_PASSWORD": "secret\n",
    }
    settings = from_env(environ=variables)
    assert settings.url == "redis://cache:6379/2"
    assert await _log_in(settings) == ("shop", "secret")


async def _log_in(settings: Settings) -> Any:
    credentials: Any = settings.credentials
    return await credentials()


async def test_a_file_with_a_password_is_read_for_each_connection(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    user = f"user-{stream}"
    variables = {
        "PENSTOCK_URL": url,
        "PENSTOCK_USERNAME": user,
        "PENSTOCK_PASSWORD_FILE": str(file),
    }
    settings = from_env(environ=variables)
    try:
        for password in ("first", "second"):
            words = ("reset", "on", f">{password}", "~*", "&*", "+@all")
            await redis.execute_command("ACL", "SETUSER", user, *words)
            file.write_text(f"{password}\n")
            async with Producer(
                settings.url, credentials=settings.credentials
            ) as producer:
                await producer.send(stream, password)
        file.write_text("wrong")
        with pytest.raises(AccessError):
            await Producer(settings.url, credentials=settings.credentials).start()
    finally:
        await redis.execute_command("ACL", "DELUSER", user)
    assert await redis.xlen(stream) == 2


def test_a_subclass_has_fields_of_other_types() -> None:
    variables = {"SHOP_MAX_ORDERS": "7", "SHOP_REGION": "eu", "PENSTOCK_URL": "x"}
    shop = from_env(Shop, prefix="SHOP_", environ=variables)
    assert (shop.max_orders, shop.region, shop.url) == (7, "eu", None)


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "SHOP_REGION is not set; set it, or SHOP_REGION_FILE"),
        (
            {"SHOP_REGION": "eu", "SHOP_MAX_ORDERS": "s3cret"},
            "SHOP_MAX_ORDERS can't be read as int",
        ),
        ({"SHOP_REGION": "eu", "SHOP_REGION_FILE": "/x"}, "both SHOP_REGION and"),
        ({"SHOP_REGION_FILE": "/no/such"}, "SHOP_REGION_FILE names can't be read"),
        ({"SHOP_PASSWORD_FILE": "/no/such"}, "SHOP_PASSWORD_FILE names can't be"),
        (
            {"SHOP_PASSWORD_FILE": "/x", "SHOP_PASSWORD": "s3cret"},
            "both SHOP_PASSWORD and",
        ),
    ],
)
def test_what_can_not_be_read_is_named_without_its_value(
    variables: dict[str, str], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        from_env(Shop, prefix="SHOP_", environ=variables)
    assert "s3cret" not in str(caught.value)


def test_a_user_without_a_password_is_refused() -> None:
    settings = from_env(environ={"PENSTOCK_USERNAME": "shop"})
    with pytest.raises(ConfigurationError, match="set the password"):
        _ = settings.credentials


def test_no_secret_is_in_the_representation() -> None:
    variables = {"PENSTOCK_URL": "redis://:s3cret@cache", "PENSTOCK_PASSWORD": "s3cret"}
    shown = repr(from_env(environ=variables))
    assert shown == "<Settings with url, password>"


def test_unknown_variables_are_reported_with_a_suggestion(
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables = {"PENSTOCK_PASWORD": "s3cret", "PENSTOCK_GRACE": "30s", "PENSTOCK": ""}
    with caplog.at_level(logging.WARNING):
        from_env(environ=variables)
    assert caplog.messages == [
        "the variable PENSTOCK_PASWORD is not known; did you mean PENSTOCK_PASSWORD?"
    ]


def test_all_variables_of_penstock_itself_are_known() -> None:
    used = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r'"(PENSTOCK_[A-Z_]*[A-Z])"', path.read_text())
    }
    assert used - {"PENSTOCK_URL"} == _OTHERS
