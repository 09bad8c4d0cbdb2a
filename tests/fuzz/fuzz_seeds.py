"""The inputs from which fuzzing starts, made here: `seeds(entry)` gives some bytes for each entry of `fuzz_entries`."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pyarrow as pa

_CSV = 'user_id,item_id,timestamp,title\nu1,"a,1",1600000000,"7"" tablet"\nu2,b,1600000001,Crème\n\nu3,c,x\n'
_ROWS = [{"user_id": 1, "item_id": "0", "time": 1.5e9, "x": [["a"], {"b": None}]}, {"user_id": 2**70, "t": "\ud83d"}]


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/ratings.csv", _CSV)
        archive.writestr("README", "x")
    return out.getvalue()


def _tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in ("./a/ratings.csv", "b" * 120 + ".csv"):
            info = tarfile.TarInfo(name)
            info.size = len(_CSV.encode())
            archive.addfile(info, io.BytesIO(_CSV.encode()))
    return out.getvalue()


def _zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def seeds(entry: str) -> list[bytes]:
    """Some inputs of an entry."""
    return {
        "delimited": [
            b"\0" + _CSV.encode(), b"\1" + _CSV.replace("\n", "\r").encode(), b"\2a\tb\n1\t2\n",
            b"\3a;b\n1;2\n", b"\4a|b\r\n1|2\r\n", b"\0001::2::3::978300760\n6::7::8::978300761\n", b"\6a b\n1  2\n",
            b"\5user_id::item_id\n1::2\n", b"\0000 1 2 3\n1 4 5\n", b"\7u1\t1 2 3\nu2\t4 5 6\n",
            b"\0user_id:token\titem_id:token\n1\t2\n",
            b"\0001\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n", b'\0"a\nb",c\n1,2\n',
        ],
        "objects": [
            b"\0" + "\n".join(json.dumps(row) for row in _ROWS).encode(), b"\1" + json.dumps(_ROWS).encode(),
            b"\2{'a': 1, 'b': {'c': (1, 2), 'd': {3}}, 'e': b'x', 'f': None, 'g': -1.5, 'h': 0xff}\n",
            b'\0{"a": "2019-01-01", "b": 1.0}\n{"a": {"c": {"d": 1}}, "a": 2}\n{"b": 1e400}\n',
        ],
        "encoding": [
            b"\0" + _CSV.encode(), b"\0" + _CSV.encode("latin-1"), b"\0" + _CSV.encode("utf-16"),
            b"\0" + "書名,千と千尋\n".encode("shift_jis"), b"\4" + "三体\n".encode("gb18030"),
            b"\3" + _CSV.encode("utf-16-le"),
            b"\0" + "書名,千と千尋\n".encode("iso2022_jp"), b"\6+AGE-\n", b"\0Caf\xc3\xa9\nCaf\xe9\n",
        ],
        "archive": [
            gzip.compress(_CSV.encode(), mtime=0), bz2.compress(_CSV.encode()), lzma.compress(_CSV.encode()), _zip(),
            _tar("w"), _tar("w:gz"), _zstd(_CSV.encode()), gzip.compress(gzip.compress(b"x", mtime=0), mtime=0),
        ],
        "times": [
            b"1600000000\n1600000001.5\n\n1.6e9", b"2024-05-01\n2024-05-01T12:30:00.123456789Z\n2024-05-01 1:02:03 PM",
            b"05/13/2019\n12/31/2019 11:59 PM", b"Tue Nov 17 11:37:35 -0800 2015",
            b"#1.5\n1600000000\nnan\n1e300\n-inf",
            b"Posted: March 3rd, 2014.\n3-Mar-2014", b"20190317\n20190318", b"Fri, 21 Nov 1997 09:55:06 -0600 (CST)",
        ],
        "texts": [
            b"{title}. {genres}\n<b>AT&amp;T</b> &lt;br&gt;", b"{{{title}}} ({genres})\n['A', \"B\", None, {'c': 1.5}]",
            b"{title!r}\n{\"a\": [\"\\ud83d\\ude00\", \"\\x41\"]}", "{title}\n\u202eא\u0301 | b|c".encode(),
        ],
        "where": [
            b"x=a|b\na\nb\nc", b"x>=4\n3\n4.0\n1e5\n\nx", b"x!=true\nTrue\n0\nfalse",
            b"x<2024-05-01\n2024-04-01\n2024-06-01",
            b"x=2024-05\n2024-05-03T10:00:00Z\n1", b"a\\|b=c\nd",
            b"x<=9007199254740993\n9007199254740992\n9007199254740993",
        ],
    }[entry]  # fmt: skip
