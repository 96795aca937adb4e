"""Decoding by FFmpeg, which PyAV's wheel brings: what libsndfile does not know. Never samples in wav: FFmpeg reads 24
valid bits in 32 as noise up to 1e27."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from speechllm_plugin.datasets.sound import asf, webm
from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.datasets.sound.remembered import Remembered
from speechllm_plugin.files.byte_range import ByteRange, Spliced

INSTALL = "pip install av"
# How many samples go by while a codec starts and ends: what it decodes may be shorter by them, or longer.
_SLACK_SECONDS = 0.1
# Packets that are decoded in any case, of which the first few may hold what is left out in front of the sound; and how
# long before a segment decoding begins again, for codecs that remember what came before.
_FIRST_PACKETS, _RUN_UP_SECONDS = 8, 2
_CHECKSUMMED = frozenset({"flac", "wavpack", "tta"})
"""Codecs whose packets tell whether they are damaged, if they are asked."""
_SOON_RIGHT = ("opus", "flac", "alac", "wavpack", "pcm_")
"""Codecs that give the same samples then as from the beginning. AAC and AC-3 do not: they fill in noise, from numbers
that go on being drawn. mp3 begins in packets before its own."""
# Containers whose header tells how long a track plays, and those that may tell it of the longest track. What FFmpeg
# says of others is a guess from their bit rate.
_TELL_OF_TRACK = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "tta", "wv", "ape"})
_MATROSKA = "matroska,webm"
_TELL_OF_ALL = {_MATROSKA: webm.states_length, "asf": asf.states_length}


class _Packets(NamedTuple):
    """Numbers of samples."""

    samples: int
    """In all packets: as they say, or as their times do."""
    end: int
    """When the last one ends."""
    gaps: int
    """Between a packet's end and the next one."""
    longest: int
    """Of a packet, which the last one is often cut from."""
    each: int
    """In each packet but the first and the last ones; 0 where they differ, an edit list leaves some out, or decoding
    cannot begin anywhere."""


class _Found(NamedTuple):
    """What a walk over the packets of a file tells."""

    tracks: int
    rate: int
    channels: int
    container: str
    packets: _Packets
    stated: int | None
    """Samples by the header."""


_found: Remembered[_Found] = Remembered()


class FfmpegSound:
    """See `Sound`."""

    def __init__(self, data: ByteRange, kind: str, key: str, *, length: int | None = None, lead: int = 0) -> None:
        """
        :param kind: what the file is, in words.
        :param key: changes with the file, whose packets are counted once.
        :param length: samples that the file states, where FFmpeg does not tell.
        :param lead: samples that the decoder puts in front of them.
        :raises SoundError: PyAV is not installed, or finds no sound.
        """
        try:
            import av
        except ImportError:
            raise SoundError(
                f"found {kind}, expected wav, flac, mp3 or ogg; with PyAV ({INSTALL}) it is read, or "
                "`ffmpeg -i IN OUT.wav` converts it"
            ) from None
        self._av: Any = av
        self._container: Any = None
        self._data, self._kind, self._lead = data, kind, lead
        self.format = "FFMPEG"
        found = _found.get((key, data.start, data.stop), self._look)
        self.tracks, self.rate, self.channels = found.tracks, found.rate, found.channels
        packets, container = found.packets, found.container
        stated = found.stated if length is None else length
        self._each = packets.each
        self.slack = max(round(_SLACK_SECONDS * self.rate), packets.longest)
        # Of a single packet that does not say how long it plays, the header does.
        if stated is not None and packets.longest and max(packets.samples, packets.end) < stated - self.slack:
            raise SoundError(
                f"found packets for {packets.samples / self.rate:.2f} s where its header states "
                f"{stated / self.rate:.2f} s, expected a whole file"
            )
        # The last packet is filled up; the header of a track knows how much of it is sound.
        is_near = stated is not None and packets.samples - stated <= self.slack and not packets.gaps
        self.is_estimate = not is_near or (length is None and container not in _TELL_OF_TRACK)
        is_stated = is_near and (container == _MATROSKA or not self.is_estimate)
        self.frames = stated if stated is not None and is_stated else packets.samples
        if self.frames <= 0:
            raise SoundError(f"found {kind} without a whole packet of sound, expected a whole file")
        self.gap = packets.gaps / self.rate if packets.gaps > self.slack else 0.0
        """Seconds that the packets' times pass over: silence that was not recorded, or parts that are missing."""

    def _look(self) -> _Found:
        """
        :raises SoundError: FFmpeg cannot read the file, or finds no sound in it.
        """
        self._open()
        container, stream = self._container, self._stream
        try:
            tracks = len(container.streams.audio)
            return _Found(
                tracks, stream.rate, stream.channels, container.format.name, self._count(), self._stated()
            )
        except self._av.FFmpegError as error:
            raise _broken(self._kind, error) from None
        finally:
            container.close()

    def _open(self) -> None:
        """
        :raises SoundError: FFmpeg cannot read the file, or finds no sound in it.
        """
        try:
            self._container = self._av.open(Spliced(b"", self._data), mode="r", metadata_errors="ignore")
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise _broken(self._kind, error) from None
        streams = self._container.streams.audio
        if not streams or not streams[0].codec_context or not streams[0].rate:
            self._container.close()
            raise SoundError(f"found {self._kind} without sound, expected an audio track")
        self._stream: Any = streams[0]
        if self._stream.codec_context.codec.canonical_name in _CHECKSUMMED:
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}

    def _count(self) -> _Packets:
        """What the packets tell, of which none is decoded."""
        lasting = times = gaps = longest = number = 0
        durations: set[int] = set()
        # Matroska's packets play for whole milliseconds.
        is_rounded = self._container.format.name == _MATROSKA
        first = last = end = before = None
        for packet in self._container.demux(self._stream):
            # The last one is empty: it tells the decoder to finish.
            if not packet.size:
                continue
            number += 1
            if number > _FIRST_PACKETS and before is not None:
                durations.add(0 if before.is_discard else before.duration or 0)
            before = packet
            lasts = packet.duration or 0
            lasting += lasts
            if packet.pts is None:
                continue
            # Some containers do not tell how long a packet plays: as long as the one before it.
            is_rounded = is_rounded or not lasts
            lasts = lasts or (packet.pts - last if last is not None else 0)
            longest = max(longest, lasts)
            first = packet.pts if first is None else first
            if end is not None and lasts and packet.pts - end > lasts:
                gaps += packet.pts - end
            last, end = packet.pts, max(end or 0, packet.pts + lasts)
            times = end - first - gaps
        scale = self._stream.time_base * self._stream.rate
        lasting = max(lasting, times) if is_rounded else lasting
        name = self._stream.codec_context.codec.canonical_name
        each = durations.pop() * scale if len(durations) == 1 and not gaps and name.startswith(_SOON_RIGHT) else 0
        return _Packets(
            samples=round(lasting * scale), end=round((end or 0) * scale), gaps=round(gaps * scale),
            longest=round(longest * scale), each=int(each) if each == int(each) else 0,
        )  # fmt: skip

    def _stated(self) -> int | None:
        container, stream = self._container, self._stream
        if container.format.name in _TELL_OF_TRACK and stream.duration:
            return round(stream.duration * stream.time_base * stream.rate)
        states = _TELL_OF_ALL.get(container.format.name)
        # Beside a video the sound may well be shorter.
        if states is not None and states(self._data) and len(container.streams) == 1 and container.duration:
            return round(container.duration / self._av.time_base * stream.rate)
        return None

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """From the first packet on: places in these containers are not exact. Packets far in front are passed over."""
        # Anew: going back to the beginning would leave out what a codec needs in front of it.
        self._open()
        skip, done, is_decoded = start + self._lead, 0, False
        self._passed_over = 0
        try:
            for block in self._decoded(skip):
                is_decoded = True
                skip, self._passed_over = skip - self._passed_over, 0
                if skip >= len(block):
                    skip -= len(block)
                    continue
                block = block[skip : skip + length - done]
                skip = 0
                done += len(block)
                yield block
                if done >= length:
                    return
        except self._av.FFmpegError as error:
            if not is_decoded:
                raise SoundError(
                    f"found {self._kind} with {self._stream.codec_context.codec.long_name}, of which FFmpeg decodes "
                    f"nothing ({_reason(error)}), expected a whole file; another version of FFmpeg may convert it: "
                    "`ffmpeg -i IN OUT.wav`"
                ) from None
            expected = min(length, self.frames)
            raise SoundError(
                f"found {done} readable samples ({_reason(error)}), expected {expected} samples"
            ) from None

    def _decoded(self, start: int) -> Iterator[Block]:
        layout, form, resampler = self._stream.layout, None, None
        for frame in self._frames(start):
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or found != form:
                # A stream without a container may change its rate or channels on the way: it goes on as it began, and
                # its packets were counted at the first rate.
                if resampler is not None:
                    self.slack = self.frames
                    yield from _blocks(resampler.resample(None))
                resampler, form = self._av.AudioResampler(format="fltp", layout=layout, rate=self.rate), found
            yield from _blocks(resampler.resample(frame))
        if resampler is not None:
            yield from _blocks(resampler.resample(None))

    def _frames(self, start: int) -> Iterator[Any]:
        """
        :param start: a sample that need not be decoded from the beginning on, where all packets hold as many.
        """
        each, number = self._each, 0
        until = max(0, start - _RUN_UP_SECONDS * self.rate) // each if each else 0
        for packet in self._container.demux(self._stream):
            # The last one, which tells the decoder to finish, has neither time nor sound. NUT marks its end by one that
            # has a time, which decoders refuse.
            if not packet.size and packet.dts is not None:
                continue
            number += 1
            if _FIRST_PACKETS < number <= until:
                self._passed_over += each
                continue
            frames = packet.decode()
            # What comes out of the first packets tells whether a sample's packet can be told.
            if number <= _FIRST_PACKETS < 2 * number and sum(frame.samples for frame in frames) != each:
                until = 0
            yield from frames

    def close(self) -> None:
        if self._container is not None:
            self._container.close()


def _blocks(frames: list[Any]) -> Iterator[Block]:
    for frame in frames:
        # (C, N) -> (N, C)
        yield np.ascontiguousarray(frame.to_ndarray().T, dtype=np.float32)


def _broken(kind: str, error: Exception) -> SoundError:
    return SoundError(f"found {kind} that FFmpeg cannot read ({_reason(error)}), expected a whole file")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
