"""Sentences that the tests of scores share."""

from __future__ import annotations

from speechllm_plugin.scoring.report import Hypothesis

ROW = Hypothesis("a", "turn on the light", "turn on light", "a.wav", 1.5, "en", "en")

GERMAN = ["Der Hund läuft schnell durch den großen Park.", "Heute ist das Wetter sehr schön in Berlin."]
GERMAN_HEARD = ["Der Hund läuft durch den großen Park.", "Heute ist das Wetter schön in Berlin."]
