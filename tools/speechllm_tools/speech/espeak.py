"""The espeak-ng speech synthesiser through ctypes; library and voices come with the PyPI package espeakng-loader."""

from __future__ import annotations

import ctypes
from typing import Final

import espeakng_loader
import numpy as np
import numpy.typing as npt

from speechllm_plugin.errors import UserError

WORDS_PER_MINUTE: Final = range(80, 451)
"""Speeds that espeak-ng accepts."""

PITCHES: Final = range(0, 100)
"""Pitches that espeak-ng accepts, on a scale of its own; 50 is the voice's own pitch."""

# Constants of speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH = 1, 3
_UTF8 = 1


class NothingSaid(UserError):
    """The text has no words to say."""


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Voice(ctypes.Structure):
    """The first fields of ``espeak_VOICE``; the identifier ends in ``+variant`` if the voice has a variant."""

    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p)]


class Espeak:
    """Speaks text into arrays. A process may have only one instance, because the library's state is global.

    The phase of the voice and its noise continue from clip to clip, so a clip depends on the clips before it: the same
    calls in the same order in a fresh process give the same samples.
    """

    sample_rate: Final[int]
    """Sample rate of the speech in Hz."""

    def __init__(self) -> None:
        """
        :raises RuntimeError: the library does not start.
        """
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        data = espeakng_loader.get_data_path()
        self.sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {data}: status {self.sample_rate}")
        # Without a seed the library seeds its noise, such as breath, from the clock.
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._library = library
        self._chunks: list[npt.NDArray[np.int16]] = []
        # The reference keeps the function alive: ctypes itself keeps none to a function that the library calls.
        self._callback = _Callback(self._receive)
        library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, *, voice: str, words_per_minute: int, pitch: int) -> npt.NDArray[np.int16]:
        """Speaks ``text`` into ``[samples]``, one channel at :attr:`sample_rate`.

        :param voice: a voice of espeak-ng, such as ``en-US`` or, with a variant, ``en-US+f2``.
        :param words_per_minute: one of :data:`WORDS_PER_MINUTE`.
        :param pitch: one of :data:`PITCHES`.
        :raises UserError: there is no such voice or variant, or a setting is out of range.
        :raises NothingSaid: the text has no words to say.
        """
        if words_per_minute not in WORDS_PER_MINUTE:
            raise UserError(f"`words_per_minute` is {words_per_minute}, expected one of {WORDS_PER_MINUTE}")
        if pitch not in PITCHES:
            raise UserError(f"`pitch` is {pitch}, expected one of {PITCHES}")
        self._set_voice(voice)
        self._check(self._library.espeak_SetParameter(_RATE, words_per_minute, 0), "the speed")
        self._check(self._library.espeak_SetParameter(_PITCH, pitch, 0), "the pitch")
        self._chunks.clear()
        encoded = text.encode()
        self._check(self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None), "the text")
        speech = np.concatenate(self._chunks) if self._chunks else np.zeros(0, dtype=np.int16)
        if not speech.any():
            raise NothingSaid(f"espeak-ng says nothing for {text!r}, expected words")
        return speech

    def _set_voice(self, voice: str) -> None:
        # For an unknown voice the library keeps the former voice, and an unknown variant it ignores, so the result of
        # the call must be checked.
        status = self._library.espeak_SetVoiceByName(voice.encode())
        _, plus, variant = voice.partition("+")
        if status == 0 and self._library.espeak_GetCurrentVoice().contents.identifier.decode().endswith(plus + variant):
            return
        raise UserError(f"espeak-ng has no voice {voice!r}, expected a language with or without +variant")

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # go on

    def _check(self, status: int, what: str) -> None:
        if status != 0:
            raise RuntimeError(f"espeak-ng does not take {what}: status {status}")
