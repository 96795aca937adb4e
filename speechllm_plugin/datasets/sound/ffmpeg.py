"""Decoding by FFmpeg, which PyAV's wheel brings: what libsndfile does not know. Never wav: FFmpeg reads 24 valid bits
in 32 as noise up to 1e27."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from speechllm_plugin.datasets.sound.api import Block, SoundError
from speechllm_plugin.datasets.sound.bytes import ByteRange, Spliced

INSTALL = 'pip install "speechllm-plugin[audio]"'
# Containers whose header knows how much is to be played; of others the packets are counted.
_KNOWING = ("mov,mp4,m4a,3gp,3g2,mj2",)
_SLACK_SECONDS = 0.1


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
        self._kind = kind
        self.format = "FFMPEG"
        try:
            self._container: Any = av.open(Spliced(b"", data), mode="r", metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _broken(kind, error) from None
        streams = self._container.streams.audio
        if not streams or not streams[0].codec_context or not streams[0].rate:
            self._container.close()
            raise SoundError(f"found {kind} without sound, expected an audio track")
        self._stream: Any = streams[0]
        self.tracks: int = len(streams)
        self.codec: str = self._stream.codec_context.name
        self.rate: int = self._stream.rate
        self.channels: int = self._stream.channels
        self.slack = round(_SLACK_SECONDS * self.rate)
        self.is_estimate = True
        try:
            self.frames = round(self._seconds() * self.rate)
        except av.FFmpegError as error:
            self._container.close()
            raise _broken(kind, error) from None

    def _seconds(self) -> float:
        stream, container = self._stream, self._container
        if container.format.name in _KNOWING and stream.duration:
            return float(stream.duration * stream.time_base)
        seconds = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
        container.seek(0)
        if seconds == 0 and container.duration:
            return float(container.duration / self._av.time_base)
        return seconds

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """From the first packet on: places in these containers are not exact."""
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
            raise SoundError(
                f"found {done} readable samples ({_reason(error)}), expected {length} samples"
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
