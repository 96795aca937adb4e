"""The features of clips: read from the cache, or encoded and added to it."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.feature_masks import mask_features
from speechllm_plugin.encoders.apart import encode_apart
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.feature_cache import FeatureCache
from speechllm_plugin.tensors.copies import on_host
from speechllm_plugin.tensors.streams import ahead


class ClipFeatures:
    """Reads and fills the cache. Data readers use it, too, so that the audio of a cached clip is not read."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self.cache: FeatureCache | None = None

    def find(self, key: str) -> Tensor | None:
        """Cached features `[T, C]`; None where the clip must be encoded. Threads may call it.

        :param key: see `Clip.audio_key`.
        """
        return None if self.cache is None else self.cache.get(key)

    def of(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor]:
        """Features `[B, T, C]` with lengths `[B]` on the host, with the clips' masks. They are float32, whichever
        precision the encoder has: the adapter computes in float32 or as autocast says."""
        features, lengths = self._unmasked(batch)
        return mask_features(features, lengths, [clip.masks for clip in batch], self._encoder.frame_rate), lengths

    def _unmasked(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            encode = partial(self._encode, batch)
            ready = batch.came_ahead and not self._encoder.tuned  # the encoder needs nothing that the last step changes
            features, lengths = ahead(encode, batch.waveform(0).device) if ready else encode()
            return features.float(), lengths
        rows = [row.float() for row in self.through(self.cache, batch)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), on_host(map(len, rows))

    def _encode(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor]:
        waveforms = [batch.waveform(i) for i in range(len(batch))]
        padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        encoded: tuple[Tensor, Tensor] = self._encoder(padded, on_host(map(len, waveforms)))
        return encoded

    def through(self, cache: FeatureCache, batch: SpeechTextBatch) -> list[Tensor]:
        """Encodes each clip that the cache lacks on its own, so that stored features never depend on a batch.

        :returns: features of each clip, `[T, C]`, in the encoder's precision.
        """
        rows = {i: features for i, features in enumerate(batch.features) if features is not None}
        missing = [i for i in range(len(batch)) if i not in rows]
        if missing:
            encoded = encode_apart(self._encoder, [batch.waveform(i) for i in missing])
            keys = [batch.clips[i].audio_key for i in missing]
            rows.update(zip(missing, cache.put_all(keys, encoded), strict=True))
        return [rows[i] for i in range(len(batch))]
