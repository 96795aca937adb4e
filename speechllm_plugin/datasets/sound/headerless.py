"""Samples without a header: their bytes do not tell the format, which a converting tool has to be given."""

from __future__ import annotations

from pathlib import PurePath

_TELEPHONE = "-ar 8000 -ac 1 "
# By the ending of the name, the only hint: what such files hold, and a command that converts them.
_BY_ENDING = {
    ".g722": ("G.722", "ffmpeg -f g722 -i IN OUT.wav"),
    **dict.fromkeys((".ul", ".ulaw", ".mulaw", ".pcmu"), ("u-law", f"ffmpeg -f mulaw {_TELEPHONE}-i IN OUT.wav")),
    **dict.fromkeys((".al", ".alaw", ".pcma"), ("A-law", f"ffmpeg -f alaw {_TELEPHONE}-i IN OUT.wav")),
    ".sln": ("samples of 16 bits at 8 kHz", f"ffmpeg -f s16le {_TELEPHONE}-i IN OUT.wav"),
    ".vox": ("Dialogic ADPCM at 8 kHz", "sox -t vox -r 8000 IN OUT.wav"),
    ".sbc": ("SBC", "ffmpeg -f sbc -i IN OUT.wav"),
    ".aptx": ("aptX", "ffmpeg -f aptx -i IN OUT.wav"),
    ".g729": ("G.729", "ffmpeg -f g729 -i IN OUT.wav"),
}


def advice(name: str) -> str:
    """The advice for such a file.

    :param name: what the user calls it.
    """
    found = _BY_ENDING.get(PurePath(name).suffix.lower())
    if found is not None:
        return f"no header that tells what it is; by its name {found[0]}: `{found[1]}`"
    return (
        "no header that tells what it is; raw samples need one: `ffmpeg -f s16le -ar 16000 -ac 1 -i IN OUT.wav` for 16 "
        "bits at 16 kHz"
    )
