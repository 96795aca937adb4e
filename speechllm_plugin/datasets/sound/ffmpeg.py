"""Decoding by FFmpeg, which PyAV's wheel brings: what libsndfile does not know. Never wav: FFmpeg reads 24 valid bits
in 32 as noise up to 1e27."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.datasets.sound.bytes import ByteRange, Spliced

INSTALL = "pip install av"
# How many samples go by while a codec starts and ends: what it decodes may be shorter by them, or longer.
_SLACK_SECONDS = 0.1
# Containers whose header tells how long a track plays, and those that tell it of the longest track. What FFmpeg says of
# others is a guess from their bit rate.
_TELLS_OF_TRACK = "mov,mp4,m4a,3gp,3g2,mj2"
_TELL_OF_ALL = ("matroska,webm", "asf")


class FfmpegSound:
    """See `Sound`."""

    def __init__(self, data: ByteRange, kind: str) -> None:
        """
        :param kind: what the file is, in words.
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
        self._data, self._kind = data, kind
        self.format = "FFMPEG"
        self._open()
        self.tracks: int = len(self._container.streams.audio)
        self.rate: int = self._stream.rate
        self.channels: int = self._stream.channels
        self.slack = round(_SLACK_SECONDS * self.rate)
        try:
            counted = self._count()
        except av.FFmpegError as error:
            self._container.close()
            raise _broken(kind, error) from None
        stated = self._stated()
        if stated is not None and counted < stated - self.slack:
            self._container.close()
            raise SoundError(
                f"found packets for {counted / self.rate:.2f} s where its header states {stated / self.rate:.2f} s, "
                "expected a whole file"
            )
        # The last packet is filled up; the header of a track knows how much of it is sound.
        is_exact = self._container.format.name == _TELLS_OF_TRACK and stated is not None
        self.is_estimate = not is_exact or counted - (stated or 0) > self.slack
        self.frames = counted if self.is_estimate or stated is None else stated

    def _open(self) -> None:
        """
        :raises SoundError: FFmpeg cannot read the file, or finds no sound in it.
        """
        try:
            self._container: Any = self._av.open(Spliced(b"", self._data), mode="r", metadata_errors="ignore")
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise _broken(self._kind, error) from None
        streams = self._container.streams.audio
        if not streams or not streams[0].codec_context or not streams[0].rate:
            self._container.close()
            raise SoundError(f"found {self._kind} without sound, expected an audio track")
        self._stream: Any = streams[0]

    def _count(self) -> int:
        """Samples of all packets, of which none is decoded."""
        ticks = sum(packet.duration or 0 for packet in self._container.demux(self._stream))
        return round(ticks * self._stream.time_base * self.rate)

    def _stated(self) -> int | None:
        container, stream = self._container, self._stream
        if container.format.name == _TELLS_OF_TRACK and stream.duration:
            return round(stream.duration * stream.time_base * self.rate)
        # Beside a video the sound may well be shorter.
        if container.format.name in _TELL_OF_ALL and len(container.streams) == 1 and container.duration:
            return round(container.duration / self._av.time_base * self.rate)
        return None

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """From the first packet on: places in these containers are not exact."""
        # Anew: going back to the beginning would leave out what a codec needs in front of it.
        self._container.close()
        self._open()
        skip, done = start, 0
        try:
            for block in self._decoded():
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
            expected = min(length, self.frames)
            raise SoundError(
                f"found {done} readable samples ({_reason(error)}), expected {expected} samples"
            ) from None

    def _decoded(self) -> Iterator[Block]:
        resampler = self._av.AudioResampler(format="fltp", layout=self._stream.layout, rate=self.rate)
        for frame in self._container.decode(self._stream):
            for part in resampler.resample(frame):
                yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
        for part in resampler.resample(None):
            yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)

    def close(self) -> None:
        self._container.close()


def _broken(kind: str, error: Exception) -> SoundError:
    return SoundError(f"found {kind} that FFmpeg cannot read ({_reason(error)}), expected a whole file")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
