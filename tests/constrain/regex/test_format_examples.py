"""Formats against the examples of their RFCs and what is easily got wrong, with jsonschema-rs as a
second judge.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema_rs
import pytest

from formgate.constrain.algebra.scalars import matches
from formgate.constrain.regex.formats import FORMATS

HOST_63 = "a" * 63

VALID: dict[str, list[str]] = {
    # RFC 3339, section 5.8 and appendix A.
    "date": ["1985-04-12", "1996-12-19", "2000-02-29", "2024-02-29", "9999-12-31", "0001-01-01"],
    "time": [
        *("23:20:50.52Z", "16:39:57-08:00", "23:59:60Z", "15:59:60-08:00", "12:00:27.87+00:20"),
        *("23:59:60+00:00", "01:29:60+01:30", "23:29:60+23:30", "00:29:60-23:30", "00:00:00Z"),
        *("12:00:00.123456789Z", "12:00:00-00:00", "08:30:06+23:59"),
    ],
    "date-time": [
        *("1985-04-12T23:20:50.52Z", "1996-12-19T16:39:57-08:00", "1990-12-31T23:59:60Z"),
        *("1990-12-31T15:59:60-08:00", "1937-01-01T12:00:27.87+00:20", "2024-02-29T00:00:00Z"),
    ],
    "duration": [
        *("P4DT12H30M5S", "P4Y", "PT0S", "P0D", "P1M", "PT1M", "PT36H", "P1DT12H", "P2W"),
        *("P1Y2M3DT4H5M6S", "PT1H2M3S", "P1Y2M"),
    ],
    # RFC 5321 and 6531.
    "email": [
        *("joe.bloggs@example.com", "te~st@example.com", "~test@example.com", "test~@example.com"),
        *("te.s.t@example.com", "a+b=c@x.y", '"joe bloggs"@example.com', '"joe..bloggs"@a.b'),
        *('"joe@bloggs"@example.com', r'"a\"b"@c', "joe@[127.0.0.1]", "joe@[IPv6:::1]"),
        *("joe@[IPv6:2001:db8::7]", "joe@localhost", "!#$%&'*+/=?^_`{|}~-@a", "a" * 64 + "@b"),
    ],
    "idn-email": ["실례@실례.테스트", "joe.bloggs@example.com", "ü@bücher.example", "δοκιμή@a"],
    # RFC 1123, section 2.1.
    "hostname": [
        *("www.example.com", "3com.com", "a", "1", "h0stn4me", "host-name", "a-b--c", HOST_63),
        *("1host", "hostnam3", "a.b.c.d.e.f.g.h", f"{HOST_63}.{HOST_63}.a", "127.0.0.1", "A.B"),
    ],
    "idn-hostname": [
        "실례.테스트",
        "example.com",
        "bücher.example",
        "παράδειγμα",
        "例え.テスト",
    ],
    "ipv4": ["192.168.0.1", "0.0.0.0", "255.255.255.255", "87.10.0.1", "1.2.3.4"],
    # RFC 4291, section 2.2, and RFC 5952.
    "ipv6": [
        *("ABCD:EF01:2345:6789:ABCD:EF01:2345:6789", "2001:DB8:0:0:8:800:200C:417A", "FF01::101"),
        *(
            "FF01:0:0:0:0:0:0:101",
            "0:0:0:0:0:0:0:1",
            "0:0:0:0:0:0:0:0",
            "2001:DB8::8:800:200C:417A",
        ),
        *("::1", "::", "0:0:0:0:0:0:13.1.68.3", "0:0:0:0:0:FFFF:129.144.52.38", "::13.1.68.3"),
        *("::FFFF:129.144.52.38", "2001:db8::1:0:0:1", "1::", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8"),
        *(
            "1:2::8",
            "1::8",
            "1:2:3:4:5::7:8",
            "1:2:3:4:5:6:1.2.3.4",
            "1::1.2.3.4",
            "::ffff:0:1.2.3.4",
        ),
    ],
    # RFC 3986, sections 1.1.2, 3 and 5.4.
    "uri": [
        *("ftp://ftp.is.co.za/rfc/rfc1808.txt", "http://www.ietf.org/rfc/rfc2396.txt"),
        *("ldap://[2001:db8::7]/c=GB?objectClass?one", "mailto:John.Doe@example.com"),
        *(
            "news:comp.infosystems.www.servers.unix",
            "tel:+1-816-555-1212",
            "telnet://192.0.2.16:80/",
        ),
        *("urn:oasis:names:specification:docbook:dtd:xml:4.1.2", "foo://info.example.com?fred"),
        *("foo://example.com:8042/over/there?name=ferret#nose", "file:///etc/fstab", "a:"),
        *("urn:example:animal:ferret:nose", "http://a/b/c/d;p?q", "http://[v1.fe80::a+en1]/"),
        *("http://user:pass@host:80/", "http://-.~_!$&'()*+,;=:%40:80%2f@example.com", "g:h"),
        *("http://foo.bar/?q=Test%20URL-encoded%20stuff", "http://223.255.255.254"),
    ],
    "uri-reference": [
        *("g:h", "g", "./g", "g/", "/g", "//g", "?y", "g?y", "#s", "g#s", "g?y#s", ";x", "g;x"),
        *("g;x?y#s", "", ".", "./", "..", "../", "../g", "../..", "../../g", "/./g", "g;x=1/../y"),
        *("g?y/./x", "g#s/../x", "http:g", "./a:b"),
    ],
    # RFC 3987.
    "iri": [
        *("http://ƒøø.ßår/?∂éœ=πîx#πîüx", "http://résumé.example.org", "http://a/?\ue000"),
        *("http://\U00020000/\U000e1000", "http://[2001:0db8:85a3::8a2e:0370:7334]", "urn:ü"),
    ],
    "iri-reference": ["/âππ", "âππ", "#ƒrägmênt", "//ƒøø.ßår/?∂éœ=πîx#πîüx", ""],
    # RFC 6570, sections 1.2 and 3.2.
    "uri-template": [
        *("http://example.com/~{username}/", "http://example.com/dictionary/{term:1}/{term}", ""),
        *("http://example.com/search{?q,lang}", "{var}", "{+path}/here", "{#x,hello,y}", "X{.var}"),
        *("{/var,x}/here", "{;x,y,empty}", "?fixed=yes{&x}", "{+path:6}", "{/list*,path:4}", "é"),
        *("{keys*}", "{a.b}", "{%41}", "%20", "map?{x,y}", "{var:9999}"),
    ],
    "uuid": [
        *("f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "2EB8AA08-AA98-11EA-B4AA-73B441D16380"),
        *("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ],
    # RFC 6901, section 5.
    "json-pointer": [
        *(
            "",
            "/foo",
            "/foo/0",
            "/",
            "/a~1b",
            "/c%d",
            "/e^f",
            "/g|h",
            "/i\\j",
            '/k"l',
            "/ ",
            "/m~0n",
        ),
        *("/foo/", "//", "/~1~0~0~1~1", "/é😀"),
    ],
    "relative-json-pointer": ["0", "1/0", "2/highly/nested/objects", "0#", "1#", "120/foo/bar"],
    "regex": ["^a(b|c)*$", r"([abc])+\s+$", "[a-z]{2}", "", "(?:a|b)c?"],
}
INVALID: dict[str, list[str]] = {
    "date": [
        *("2023-02-29", "1900-02-29", "2100-02-29", "2024-02-30", "2024-04-31", "2024-13-01"),
        *(
            "2024-00-01",
            "2024-01-00",
            "2024-1-1",
            "24-01-01",
            "2024-01-01Z",
            "20240101",
            "2024-W01",
        ),
        *("٢٠٢٤-01-01", "2024-01-01\n", "+2024-01-01", "2024/01/01"),
    ],
    "time": [
        *("24:00:00Z", "23:60:00Z", "23:59:61Z", "22:59:60Z", "23:58:60Z", "12:00:60+00:00"),
        *("15:59:60+08:00", "23:59:60+01:00", "12:00:00", "12:00Z", "12:00:00.Z", "1:00:00Z"),
        *("12:00:00+24:00", "12:00:00+01:60", "12:00:00+0100", "12:00:00 Z", "12:00:00+01", "Z"),
    ],
    "date-time": [
        *("1990-02-31T15:59:59Z", "1998-12-31T23:58:60Z", "1998-12-31T22:59:60Z", "2024-01-01"),
        *(
            "2024-01-01T12:00:00",
            "2024-350T01:01:01",
            "2024-01-01T24:00:00Z",
            "06/19/1963 08:30 PST",
        ),
        *("2023-02-29T00:00:00Z", "1963-06-1٢T00:00:00Z", "2024-01-01TT00:00:00Z"),
    ],
    "duration": [
        *(
            "PT1D",
            "4DT12H30M5S",
            "P1",
            "P",
            "P1YT",
            "PT",
            "P2D1Y",
            "P1D2H",
            "P2S",
            "P1Y2W",
            "P1W2D",
        ),
        *("PT1Y", "P-1D", "p1d", "P٢Y", "PT1H1S", "P1Y1D", "P1 D", "PT0.5S"),
    ],
    "email": [
        *(
            "2962",
            ".test@example.com",
            "test.@example.com",
            "te..st@example.com",
            "a@",
            "@a",
            "a b@c",
        ),
        *("joe@-a", "joe@a-", "joe@a..b", "joe@[127.0.0.300]", "joe@[IPv6:1]", '"a"b"@c', "a@b@c"),
        *("joe@a_b", "joe@a,b", "a" * 65 + "@b", "é@b", "Joe <joe@a.b>", "a@b\n"),
    ],
    "idn-email": ["2962", "ü", "@ü", "ü@", "ü ü@ü", "ü@-ü", "ü@ü..ü"],
    "hostname": [
        *(
            "-a",
            "a-",
            "a..b",
            ".a",
            "a_b",
            "",
            "a b",
            "a" * 64,
            "a.-b",
            "ab--c",
        ),
        *("é", "a,b", "a\n", ".".join([HOST_63] * 4), "a.b:80"),
    ],
    "idn-hostname": ["-실례", "실례-", "실..례", "〮한", "a b", "", "실례 ", "a_b", "a,b"],
    "ipv4": [
        *(
            "127.0.0.0.1",
            "256.256.256.256",
            "127.0",
            "0x7f000001",
            "2130706433",
            "087.10.0.1",
            "1.2.3",
        ),
        *("1.2.3.4 ", "1২7.0.0.1", "1.2.3.4/24", "-1.2.3.4", "1.2.3.4\n", "1..2.3"),
    ],
    "ipv6": [
        *(
            "12345::",
            "::abcef1",
            "1:1:1:1:1:1:1:1:1:1:1:1",
            "::laptop",
            "1::2::3",
            ":2:3:4:5:6:7:8",
        ),
        *(
            "1:2:3:4:5:6:7:",
            "1:2:3:4:5:6:7",
            "1",
            "1:2:3:4:1.2.3",
            "1:2:3:4:5:6:7:1.2.3.4",
            "::1/64",
        ),
        *(
            "1.2.3.4::",
            "fe80::a%eth1",
            "  ::1",
            "::1 ",
            ":::",
            "1:2:3:4:5:6:::8",
            "::1.2.256.4",
            ":",
        ),
        *("::1:2:3:4:5:6:7:8:9", "127.0.0.1", "100:100:100:100:100:100:255.255.255.255.255", "::২"),
    ],
    "uri": [
        *(
            "//foo.bar/?baz=qux#quux",
            "/abc",
            "\\\\WINDOWS\\fileshare",
            "abc",
            "http:// shouldfail.com",
        ),
        *(
            ":// should fail",
            "bar,baz:foo",
            "http://a b",
            "http://[::z]/",
            "http://a/%zz",
            "1a:b",
            "",
        ),
        *("http://a:80a/", "https://[@example.org/test.txt", "https://example.org/foobar\\.txt"),
        *('https://example.org/foobar"', "https://example.org/foobar<>.txt", "http://{x}", "é:a"),
        *(
            "https://example.org/foobar^.txt",
            "https://example.org/foobar`.txt",
            "a:#b#c",
            "http://é",
        ),
    ],
    "uri-reference": [
        "\\\\WINDOWS\\fileshare",
        "abc\\",
        "#frag\\ment",
        "1:2",
        "a b",
        "%zz",
        "é",
        "[]",
    ],
    "iri": [
        "/abc",
        "\\\\WINDOWS\\fileshare",
        "âππ",
        "http:// ü",
        "http://ü/\ue000",
        "http://[::z]",
        "‽",
    ],
    "iri-reference": ["\\\\WINDOWS\\filëßåré", "#ƒräg\\mênt", "a b", "<ü>"],
    "uri-template": [
        *("http://example.com/dictionary/{term:1}/{term", "{", "}", "{}", "{a..b}", "{.a.}", "{+}"),
        *(
            "{var:0}",
            "{var:10000}",
            "{a*:3}",
            "{a,}",
            "{a b}",
            '"',
            "<",
            "\\",
            "%zz",
            "^",
            "`",
            "a b",
        ),
    ],
    "uuid": [
        *("2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08-aa98-11ea-73b441d16380", "2eb8aa08"),
        *("2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08aa98-11ea-b4aa73b441d16380", "{0}"),
        *("2eb8-aa08-aa98-11ea-b4aa73b44-1d16380", "2eb8aa08-aa98-11ea-b4ga-73b441d16380"),
    ],
    "json-pointer": ["/foo/bar~", "/~0~", "/~0/~", "#", "#/", "#a", "a", "0", "/~2", "/~~", "/~-1"],
    "relative-json-pointer": [
        "/foo/bar",
        "-1/foo",
        "+1/foo",
        "0##",
        "01/a",
        "01#",
        "",
        "1/~2",
        "1#a",
    ],
    "regex": ["^(abc]", "(", "[b-", "a{2", "*a", "a)", "(?a"],
}


def test_each_format_has_examples() -> None:
    assert VALID.keys() == INVALID.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_of_a_format(name: str) -> None:
    judge = judge_of(name)
    for text in VALID[name]:
        assert matches(FORMATS[name].narrow, text, whole=True), text
        assert matches(FORMATS[name].wide, text, whole=True), text
        assert judge.is_valid(text), text


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_of_a_format(name: str) -> None:
    for text in INVALID[name]:
        assert not matches(FORMATS[name].narrow, text, whole=True), text


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_masks_write_and_what_is_a_letter_off_is_judged_as_by_jsonschema_rs(
    masks: Any, name: str
) -> None:
    judge, r = judge_of(name), Random(name)
    tree = {"kind": "json", "schema": {"type": "string", "format": name}}
    written = [text for _ in range(10) if (text := masks.walk(tree, r, 90)) is not None]
    assert written
    for text in [json.loads(text) for text in written] + VALID[name]:
        assert judge.is_valid(text), text
        assert matches(FORMATS[name].wide, text, whole=True), text
        for _ in range(5):
            at = r.randrange(len(text) + 1)
            other = text[:at] + r.choice("0159aZ:.-/%#[]{}~@é \n") + text[at + r.randint(0, 1) :]
            if judge.is_valid(other):
                if name in ("date", "date-time"):
                    continue  # it takes a slash for a digit
                assert matches(FORMATS[name].wide, other, whole=True), other
            else:
                assert not matches(FORMATS[name].narrow, other, whole=True), other


def judge_of(name: str) -> Any:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "format": name}
    return jsonschema_rs.validator_for(schema, validate_formats=True)
