"""Decodes the formats that libsndfile does not know by FFmpeg, which PyAV's wheel brings. It never decodes samples in
wav: FFmpeg reads 24 valid bits in 32 as noise up to 1e27."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from speechllm_plugin.datasets.sound import asf, webm
from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.datasets.sound.remembered import Remembered
from speechllm_plugin.files.byte_range import ByteRange, Spliced

INSTALL = "pip install av"
# Samples that a codec may lose or add where it starts and ends.
_SLACK_SECONDS = 0.1
# Packets that are always decoded, since the first few may hold samples that are left out before the sound; and seconds
# before a segment at which decoding begins again, for codecs that remember what came before.
_FIRST_PACKETS, _RUN_UP_SECONDS = 8, 2
_CHECKSUMMED = frozenset({"flac", "wavpack", "tta"})
"""Codecs whose packets have checksums, which are checked on demand."""
_SOON_RIGHT = ("opus", "flac", "alac", "wavpack", "pcm_")
"""Codecs that after this run-up give the same samples as from the beginning. AAC and AC-3 do not: they fill in noise
from a running random generator. The data of an mp3 packet begins in earlier packets."""
# Containers whose header states the length of a track, and those that may state that of the longest track. For others
# FFmpeg's length is a guess from their bit rate.
_TELL_OF_TRACK = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "tta", "wv", "ape"})
_MATROSKA = "matroska,webm"
_TELL_OF_ALL = {_MATROSKA: webm.states_length, "asf": asf.states_length}


class _Packets(NamedTuple):
    """Numbers of samples."""

    samples: int
    """Samples in all packets, as the packets or their times state them."""
    end: int
    """Where the last packet ends."""
    gaps: int
    """Samples between the packets' ends and the beginnings of the next ones."""
    longest: int
    """Samples of the longest packet; the last packet is often cut."""
    each: int
    """Samples in each packet except the first and the last ones; 0 where packets differ, where an edit list leaves some
    out, or where decoding can only begin at the beginning."""


class _Found(NamedTuple):
    """The result of a walk over the packets of a file."""

    tracks: int
    rate: int
    channels: int
    container: str
    packets: _Packets
    stated: int | None
    """Samples that the header states."""


_found: Remembered[_Found] = Remembered()


class FfmpegSound:
    """See `Sound`."""

    def __init__(self, data: ByteRange, kind: str, key: str, *, length: int | None = None, lead: int = 0) -> None:
        """
        :param kind: what the file is, in words.
        :param key: a key that changes with the file, whose packets are counted once for each key.
        :param length: samples that the file states, where FFmpeg does not report them.
        :param lead: samples that the decoder puts before them.
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
        # A lone packet may not state its length; the header then does.
        if stated is not None and packets.longest and max(packets.samples, packets.end) < stated - self.slack:
            raise SoundError(
                f"found packets for {packets.samples / self.rate:.2f} s where its header states "
                f"{stated / self.rate:.2f} s, expected a whole file"
            )
        # The last packet is filled up; only the header of a track tells how much of it is sound.
        is_near = stated is not None and packets.samples - stated <= self.slack and not packets.gaps
        self.is_estimate = not is_near or (length is None and container not in _TELL_OF_TRACK)
        is_stated = is_near and (container == _MATROSKA or not self.is_estimate)
        self.frames = stated if stated is not None and is_stated else packets.samples
        if self.frames <= 0:
            raise SoundError(f"found {kind} without a whole packet of sound, expected a whole file")
        self.gap = packets.gaps / self.rate if packets.gaps > self.slack else 0.0
        """Seconds that the times of the packets skip: silence that was not recorded, or missing parts."""

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
        """Counts the packets without decoding any."""
        lasting = times = gaps = longest = number = 0
        durations: set[int] = set()
        # Matroska states the lengths of packets in whole milliseconds.
        is_rounded = self._container.format.name == _MATROSKA
        first = last = end = before = None
        for packet in self._container.demux(self._stream):
            # The last packet is empty and tells the decoder to finish.
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
            # A packet without a stated length is taken to be as long as the one before it.
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
        # Beside a video the sound may be shorter than the file.
        if states is not None and states(self._data) and len(container.streams) == 1 and container.duration:
            return round(container.duration / self._av.time_base * stream.rate)
        return None

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Reads from the first packet on, since places in these containers are not exact; skips packets far before
        `start`."""
        # The file is opened anew: seeking to the beginning would skip data that a codec needs before it.
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
                # A stream without a container may change its rate or channels on the way. It is read as it began, and
                # its
                            # packets were counted at the first rate.
                if resampler is not None:
                    self.slack = self.frames
                    yield from _blocks(resampler.resample(None))
                resampler, form = self._av.AudioResampler(format="fltp", layout=layout, rate=self.rate), found
            yield from _blocks(resampler.resample(frame))
        if resampler is not None:
            yield from _blocks(resampler.resample(None))

    def _frames(self, start: int) -> Iterator[Any]:
        """
        :param start: first sample that is needed; packets before it are skipped where all hold the same number.
        """
        each, number = self._each, 0
        until = max(0, start - _RUN_UP_SECONDS * self.rate) // each if each else 0
        for packet in self._container.demux(self._stream):
            # The last packet, which tells the decoder to finish, has neither time nor sound. NUT marks its end by an
            # empty packet with a time, which decoders refuse.
            if not packet.size and packet.dts is not None:
                continue
            number += 1
            if _FIRST_PACKETS < number <= until:
                self._passed_over += each
                continue
            frames = packet.decode()
            # The output of the first packets shows whether packets hold `each` samples; if not, none may be skipped.
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
