"""A webhook reaches no address of the service's own network, however it is written."""

import socket
from ipaddress import ip_address

import pytest

from api.config import WebhookSettings
from api.webhooks.addresses import check_url, is_public
from api.webhooks.sender import open_sender
from tests.support.webhooks import NOW, receiving

PRIVATE = (
    *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),  # noqa: S104
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.88.99.1"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "fe80::1"),
    *("fd00:ec2::254", "fc00::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "fec0::1"),
    *("2002:7f00:1::", "2001::1", "2001:db8::1", "fe80::1%1"),
)
PUBLIC = ("1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1")
STRICT = {"allow_http": False, "allow_private": False}
ALL = {"allow_http": True, "allow_private": True}


@pytest.mark.parametrize("address", PRIVATE)
def test_special_addresses_are_not_public(address):
    """Nor are IPv6 addresses that contain one."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_other_addresses_are_public(address):
    """Those beside the ranges, too."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_a_url_with_a_special_address_is_rejected(address):
    """Before anything is resolved: an address needs no resolver."""
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match=r"public|usual form|no URL"):
        check_url(f"https://{host}/", **STRICT)


@pytest.mark.parametrize(
    "url",
    [
        *("https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://127.1/"),
        *("https://0177.0.0.1/", "https://127.0.0.1./", "https://1.2.3.4.5/", "https://a.0x1/"),
        *("https://user@example.com/", "https://a:b@example.com/", "https://@example.com/"),
        *("https://example.com/#x", "https://example.com:0/", "https://example.com:99999/"),
        *("ftp://example.com/", "//example.com/", "https:///x", "example.com", "", "https://"),
        *("https://exa mple.com/", "https://example.com\\@evil/", "https://ex\u00e4mple.com/"),
        *("https://\uff11\uff12\uff17.0.0.1/", "https://%3127.0.0.1/", "https://a/\n"),
        "https://example.com/" + "x" * 2000,
    ],
)
def test_odd_urls_are_rejected_whatever_is_allowed(url):
    """They are read differently by different programs."""
    with pytest.raises(ValueError, match=r"."):
        check_url(url, **ALL)


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com", "https://example.com:8443/a?b=c@d", "https://1.1.1.1/x"),
        *("https://[2606:4700::1111]/", "https://a.b-c.example/", "https://x1/"),
    ],
)
def test_plain_urls_are_allowed(url):
    """With a name, or a public address."""
    check_url(url, **STRICT)


def test_http_is_allowed_by_its_setting_alone():
    """Like addresses that are not public."""
    with pytest.raises(ValueError, match="allow_http"):
        check_url("http://example.com/", **STRICT)
    check_url("http://example.com/", allow_http=True, allow_private=False)
    check_url("http://127.0.0.1/", **ALL)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "::1"], ["::ffff:127.0.0.1"]])
async def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    monkeypatch, addresses
):
    """The address that is connected to is checked, whatever was resolved before."""
    async with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        rebind(monkeypatch, addresses)
        settings = WebhookSettings(allow_http=True)
        async with open_sender(settings, lambda: NOW) as sender:
            outcome = await sender.send(
                f"http://hook.example:{port}/hook", ["whsec_AAAA"], "msg_1", b'{"events":[]}'
            )
            assert outcome.status is None
            assert "hook.example" not in outcome.error
        assert receiver.requests == []
        async with open_sender(
            WebhookSettings(allow_http=True, allow_private=True), lambda: NOW
        ) as sender:
            outcome = await sender.send(
                f"http://hook.example:{port}/hook", ["whsec_AAAA"], "msg_1", b'{"events":[]}'
            )
        assert outcome.status == 204


def rebind(monkeypatch, addresses):
    """Let every name resolve to some addresses."""

    class Resolver:
        def __init__(self, *_args, **_options):
            pass

        async def resolve(self, host, port=0, **_options):
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in addresses
            ]

        async def close(self):
            pass

    monkeypatch.setattr("aiohttp.connector.DefaultResolver", Resolver)
