"""Chooses the decoder that reads all sound of a file, by its bytes."""

from __future__ import annotations

import re
from collections.abc import Callable

import soundfile

from speechllm_plugin.datasets.sound import chunks, flac, headerless, kinds, mp4, musepack, ogg, wav, webm
from speechllm_plugin.datasets.sound.api import Sound, SoundError, later_part
from speechllm_plugin.datasets.sound.concatenated import recordings
from speechllm_plugin.datasets.sound.ffmpeg import FfmpegSound
from speechllm_plugin.datasets.sound.flac_sound import FlacSound
from speechllm_plugin.datasets.sound.float_sound import SUBTYPES, FloatSound
from speechllm_plugin.datasets.sound.joined import join
from speechllm_plugin.datasets.sound.libsndfile import WHOLE, Opening, SndfileSound
from speechllm_plugin.datasets.sound.mp3_sound import Mp3Sound, streams_of_file
from speechllm_plugin.datasets.sound.notes import tell
from speechllm_plugin.files.byte_range import ByteRange, Mended

# libsndfile's containers that state their own rate.
_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST", "RAW",
                      "IRCAM", "SVX", "PVF", "PAF", "HTK"})
_UNSUPPORTED_ENCODING = 4
_MP3_SLACK = 4 * 1152
_SPHERE_COUNT = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)
_SPHERE_HEADER = 1024
_EXPECTED = "expected wav, flac, mp3 or ogg"
# Codecs that code samples in blocks: the last block is filled up, and libsndfile counts it whole.
_BLOCK_CODECS = {"GSM610": 640, "IMA_ADPCM": 8192, "MS_ADPCM": 8192}


class UnknownCodecError(SoundError):
    """libsndfile knows the container, but not the codec in it."""


def open_sound(data: ByteRange, name: str, key: str, *, scales_floats: bool = True) -> Sound:
    """
    :param name: what the user calls the file, for notes.
    :param key: a key that changes with the file.
    :param scales_floats: whether floating point numbers in units of integers are divided by their full scale; otherwise
        they are an error.
    :raises SoundError: the file is no sound, or not whole.
    """
    data = kinds.after_tags(data)
    kind = kinds.kind_of(data)
    if kind in kinds.NO_SOUND:
        raise _no_sound(kind)
    parts = recordings(data, kind, key)
    opened: list[Sound] = []
    try:
        for part in parts:
            opened.append(_open_one(part, kind, name, f"{key} {part.start}", scales_floats))
        # Some programs write their header into a pipe twice, so that a part is empty.
        sounding = [sound for sound in opened if sound.frames > 0] or opened
        return join(sounding, name)
    except SoundError:
        for sound in opened:
            sound.close()
        raise


def _open_one(data: ByteRange, kind: str, name: str, key: str, scales_floats: bool) -> Sound:
    if kind == "mp4" and (lack := mp4.lack(data)) is not None:
        raise SoundError(lack)
    if kind in kinds.FFMPEG:
        return _by_ffmpeg(data, kinds.FFMPEG[kind], name, key)
    opener = _OPENERS.get(kind)
    sound = opener(data, name, key) if opener else _by_sndfile(data)
    if isinstance(sound, SndfileSound) and sound.subtype in SUBTYPES:
        return FloatSound(sound, name, key, may_scale=scales_floats)
    return sound


def _wav(data: ByteRange, name: str, key: str) -> Sound:
    found = wav.read_wav(data)
    if found is None:
        return _by_sndfile(data)
    if found.format_tag == wav.MP3:
        return _mp3(found.samples, name, key)
    if found.other_codec is not None:
        return _by_ffmpeg(data, found.other_codec, name, key)
    sound = _by_sndfile(data) if found.head is None else _by_sndfile(found.samples, Opening(head=found.head))
    tolerance = _BLOCK_CODECS.get(sound.subtype, 0)
    if found.stated_samples and 0 < sound.frames - found.stated_samples <= tolerance:
        sound.frames = found.stated_samples
    _tell_of_surplus(sound, found.surplus, found.samples, name)
    return sound


def _tell_of_surplus(sound: Sound, surplus: int, samples: ByteRange, name: str) -> None:
    if surplus:
        share = surplus / samples.size
        tell(
            "surplus", name,
            f"the header states {sound.frames * (1 - share) / sound.rate:.2f} s of sound, but "
            f"{sound.frames * share / sound.rate:.2f} s more lie behind it and were read, too",
        )  # fmt: skip


def _aiff(data: ByteRange, name: str, key: str) -> Sound:
    return _with_head(data, chunks.mended_aiff(data), name)


def _au(data: ByteRange, name: str, key: str) -> Sound:
    return _with_head(data, chunks.mended_au(data), name)


def _caf(data: ByteRange, name: str, key: str) -> Sound:
    codec = chunks.codec_of_caf(data)
    if codec not in chunks.SNDFILE_CODECS:
        return _by_ffmpeg(data, f"{_name(codec)} in CAF", name, key)
    try:
        return _with_head(data, chunks.mended_caf(data), name)
    except UnknownCodecError:
        return _by_ffmpeg(data, f"{_name(codec)} in CAF", name, key)


def _name(codec: bytes) -> str:
    text = codec.decode("latin-1").strip()
    return text if text.isascii() and text.isalnum() else "an unknown codec"


def _with_head(data: ByteRange, mended: Mended | None, name: str) -> SndfileSound:
    if mended is None:
        return _by_sndfile(data)
    sound = _by_sndfile(mended.samples, Opening(head=mended.head))
    _tell_of_surplus(sound, mended.surplus, mended.samples, name)
    return sound


def _flac(data: ByteRange, name: str, key: str) -> Sound:
    return FlacSound(data, name, lambda part: _with_head(part, flac.mended_header(part), name))


def _ogg(data: ByteRange, name: str, key: str) -> Sound:
    streams = ogg.read_streams(data)
    codecs = {codec for stream in streams for codec in stream.codecs}
    if not streams or not codecs <= {"Vorbis", "Opus"}:
        kind = f"{' and '.join(sorted(codecs)) or 'no stream'} in Ogg"
        return join([_by_ffmpeg(one.data, kind, name, key, length=one.samples) for one in streams], name)
    if not streams[-1].has_end:
        tell("ogg", name, "the Ogg stream has no mark of its end, so it may have been cut off; all there is was read")
    return join(
        [
            _by_sndfile(one.data, Opening(safe_start=one.last_page if "Vorbis" in one.codecs else None))
            for one in streams
        ],
        name,
    )


def _mp3(data: ByteRange, name: str, key: str) -> Sound:
    streams = streams_of_file(data, key)
    if not streams:
        # MPEG audio of another layer, whose length libsndfile guesses.
        return _by_sndfile(data, Opening(slack=_MP3_SLACK), name)
    for _, frames in streams:
        frames.check()
    return join([Mp3Sound(part, frames) for part, frames in streams], name)


def _sphere(data: ByteRange, name: str, key: str) -> Sound:
    header = data.read(0, _SPHERE_HEADER)
    if b"shorten" in header:
        raise SoundError(
            f"found a SPHERE file packed by shorten, {_EXPECTED}; `sph2pipe -f wav IN OUT.wav` (LDC) unpacks it"
        )
    sound = _by_sndfile(data)
    match = _SPHERE_COUNT.search(header)
    if match is not None and sound.frames < int(match[1]):
        sound.close()
        raise SoundError(f"found {sound.frames} samples where its header states {int(match[1])}, expected a whole file")
    return sound


def _musepack(data: ByteRange, name: str, key: str) -> Sound:
    length = musepack.stated_length(data)
    return _by_ffmpeg(data, "Musepack", name, key, length=length, lead=0 if length is None else musepack.DECODER_DELAY)


def _gsm(data: ByteRange, name: str, key: str) -> Sound:
    return _by_sndfile(data, Opening(is_gsm=True))


_OPENERS: dict[str, Callable[[ByteRange, str, str], Sound]] = {
    "wav": _wav, "aiff": _aiff, "au": _au, "caf": _caf, "flac": _flac, "ogg": _ogg, "mp3": _mp3, "sphere": _sphere,
    "gsm": _gsm, "musepack": _musepack,
}  # fmt: skip


def _by_sndfile(data: ByteRange, opening: Opening = WHOLE, name: str = "") -> SndfileSound:
    try:
        sound = SndfileSound(data, opening)
    except soundfile.LibsndfileError as error:
        kind = kinds.kind_without_sound(data)
        if kind == "unknown" and kinds.kind_of(data) != "mp3":
            if error.code == _UNSUPPORTED_ENCODING:
                raise UnknownCodecError(f"found a codec that libsndfile does not know, {_EXPECTED}") from None
            # The first bytes are those of a container, but its content is not.
            raise SoundError(f"found no audio ({error.error_string.rstrip('.')}), {_EXPECTED}") from None
        if kind == "unknown" and webm.is_later_part(data):
            raise SoundError(later_part("a WebM recording", "webm")) from None
        raise _no_sound(kind, name) from None
    if sound.format not in _FORMATS:
        sound.close()
        raise SoundError(f"found a file of format {sound.format}, {_EXPECTED}; `sox IN OUT.wav` may convert it")
    return sound


def _by_ffmpeg(
    data: ByteRange, kind: str, name: str, key: str, *, length: int | None = None, lead: int = 0
) -> FfmpegSound:
    sound = FfmpegSound(data, kind, key, length=length, lead=lead)
    if sound.tracks > 1:
        tell("tracks", name, f"holds {sound.tracks} audio tracks; the first was read")
    if sound.gap:
        tell(
            "gaps", name,
            f"the times of its packets pass over {sound.gap:.2f} s: parts are missing, or silence was not recorded; "
            "what there is was read without a pause",
        )  # fmt: skip
    return sound


def _no_sound(kind: str, name: str = "") -> SoundError:
    what = headerless.advice(name) if kind == "unknown" else kinds.NO_SOUND[kind]
    return SoundError(f"found no audio ({what}), {_EXPECTED}")
