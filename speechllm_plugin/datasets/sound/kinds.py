"""Tells the format of a file by its first bytes, never by its name, which is often wrong."""

from __future__ import annotations

import codecs

from speechllm_plugin.datasets.sound import asf, webm
from speechllm_plugin.datasets.sound.tags import end_of_tag
from speechllm_plugin.files.byte_range import ByteRange

_HEAD = 4096
_GSM_FRAME, _GSM_FRAMES = 33, 20

_BY_START = (
    (b"fLaC", "flac"), (b"OggS", "ogg"), (b".snd", "au"), (b"dns.", "au"), (b"caff", "caf"),
    (b"NIST_1A", "sphere"), (b"riff\x2e\x91\xcf\x11", "w64"), (webm.HEADER, "webm"), (b"#!AMR", "amr"),
    (asf.HEADER, "wma"), (b"MAC ", "ape"), (b"wvpk", "wavpack"), (b"TTA1", "tta"),
    (b"MPCK", "musepack"), (b"MP+", "musepack"), (b"DSD ", "dsf"), (b".RMF", "real"), (b".ra\xfd", "real"),
    (b"FLV\x01", "flv"), (b"nut/multimedia container", "nut"), (b"\x7f\xfe\x80\x01", "dts"), (b".SoX", "sox"),
    (b"XoS.", "sox"), (b"Creative Voice File\x1a", "voc"), (b"#!iLBC", "ilbc"),
    (b"\x00\x00\x01\xba", "mpeg"), (b"\x0b\x77", "ac3"), (b"ADIF", "aac"),
    (b"ajkg", "shorten"), (b"PK\x03\x04", "zip"), (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"), (b"\x93NUMPY", "npy"), (b"version https://git-lfs", "lfs"), (b"%PDF", "pdf"),
)  # fmt: skip

_BOXES = (b"ftyp", b"moov", b"styp", b"moof", b"wide", b"skip", b"free")

FFMPEG = {
    "mp4": "MPEG-4 (m4a, mp4, 3gp, mov)", "webm": "WebM or Matroska", "aac": "AAC", "amr": "AMR",
    "wma": "Windows Media", "ape": "Monkey's Audio", "wavpack": "WavPack", "tta": "True Audio",
    "dsf": "DSD", "real": "RealMedia", "flv": "Flash video", "mpeg": "MPEG video",
    "nut": "NUT", "dts": "DTS", "sox": "sox's own format", "adx": "ADX", "ilbc": "iLBC", "truehd": "Dolby TrueHD",
    "latm": "AAC in LATM", "maud": "MAUD", "voc": "VOC", "ac3": "AC-3", "mpegts": "an MPEG transport stream",
    "avi": "AVI",
}  # fmt: skip
"""Kinds that FFmpeg decodes and libsndfile does not, with their names in words."""

NO_SOUND = {
    "shorten": "shorten, which nothing here decodes: `shorten -x` makes a wav of it",
    "zip": "a zip archive; a stored entry is ARCHIVE.zip:OFFSET:LENGTH, in bytes",
    "gzip": "a gzip archive, which has to be unpacked",
    "bzip2": "a bzip2 archive, which has to be unpacked",
    "xz": "an xz archive, which has to be unpacked",
    "npy": "an array of NumPy, not sound",
    "lfs": "a pointer of Git LFS: `git lfs pull` fetches the file",
    "pdf": "a PDF document",
    "html": "a page of HTML, perhaps the message of a download that failed",
    "text": "text",
    "nothing": "an empty file",
    "zeros": "zero bytes alone, perhaps a download that failed",
}
"""Kinds that hold no sound, or none that is decoded, with advice. For `unknown` see
:mod:`speechllm_plugin.datasets.sound.headerless`."""


def after_tags(data: ByteRange) -> ByteRange:
    """The file without the ID3 tags that may stand before any kind."""
    start = 0
    while data.read(start, 3) == b"ID3" and (end := end_of_tag(data, start)) is not None:
        start = end
    return data.part(start, data.size) if start < data.size else data


def kind_of(data: ByteRange) -> str:
    """The kind of a file; `mp3` = of no other kind, and with frames: see :mod:`speechllm_plugin.datasets.sound.mp3`."""
    head = data.read(0, _HEAD)
    for start, kind in _BY_START:
        if head.startswith(start):
            return kind
    form = head[8:12]
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and form in (b"WAVE", b"AVI "):
        return "avi" if form == b"AVI " else "wav"
    if head[:4] == b"FORM" and form in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"FORM" and form == b"MAUD":
        return "maud"
    # The first four bytes are the size of the first box, which is small unless the box holds the sound.
    if head[4:8] == b"mdat" or (head[:1] == b"\0" and head[4:8] in _BOXES):
        return "mp4"
    if head[4:8] == b"\xf8\x72\x6f\xba":
        return "truehd"
    if head[:2] == b"\x80\0" and b"(c)CRI" in head:
        return "adx"
    if _is_latm(head):
        return "latm"
    # Each frame of AAC follows where the header of the one before it says.
    if _is_adts(head):
        return "aac"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    if _is_gsm(head, data.size):
        return "gsm"
    return "mp3"


def kind_without_sound(data: ByteRange) -> str:
    """The kind of a file in which no decoder finds sound."""
    head = data.read(0, _HEAD)
    if not head.strip(b"\0") and data.is_zero():
        return "zeros" if head else "nothing"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "html"
    try:
        # The last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return "unknown"
    return "text" if text.isprintable() or not any(c < " " and c not in "\t\r\n\f" for c in text) else "unknown"


def _is_adts(head: bytes) -> bool:
    position = 0
    for number in range(3):
        if position == len(head) and number > 1:
            return True
        if len(head) < position + 7 or head[position] != 0xFF or head[position + 1] & 0xF6 != 0xF0:
            return False
        size = (head[position + 3] & 3) << 11 | head[position + 4] << 3 | head[position + 5] >> 5
        if size < 7:
            return False
        position += size
    return True


def _is_latm(head: bytes) -> bool:
    """Whether three headers follow each other, each where the one before it says."""
    position = 0
    for _ in range(3):
        if len(head) < position + 3 or head[position] != 0x56 or head[position + 1] & 0xE0 != 0xE0:
            return False
        position += 3 + ((head[position + 1] & 0x1F) << 8 | head[position + 2])
    return True


def _is_gsm(head: bytes, size: int) -> bool:
    """Whether it consists of frames of GSM 6.10: 33 bytes each, with four bits that are always the same."""
    places = range(0, min(len(head), _GSM_FRAME * _GSM_FRAMES), _GSM_FRAME)
    return size % _GSM_FRAME == 0 and len(places) > 2 and all(head[place] >> 4 == 0xD for place in places)
