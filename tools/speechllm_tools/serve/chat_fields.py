"""Reads a chat request: a conversation with speech in its last turn, and optionally in earlier turns of the user."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from speechllm_plugin.errors import UserError
from speechllm_plugin.tasks.row_prompt import SPEECH, RowPrompt, question
from speechllm_tools.serve.refusals import Refusal
from speechllm_tools.serve.ways import Asking

_MAX_TOKENS = 128
"""Length limit of an answer if the request has none; the same as in `speechllm ask`."""
_MOST_TOKENS = 4096
_SHOWN = 80
"""A refusal shows at most this many characters of the wrong value."""
_USED = {
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream",
    "stream_options", "context",
}  # fmt: skip
_WITHOUT_EFFECT = {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"}
_ONE_VALUE: dict[str, tuple[object, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,), "modalities": (["text"],),
    "response_format": ({"type": "text"},), "stop": ([],), "tools": ([],), "tool_choice": ("none",),
    "logit_bias": ({},), "parallel_tool_calls": (True, False),
}  # fmt: skip
"""Fields that clients send by default, with the values that have no effect."""


@dataclass(frozen=True)
class ChatFields:
    model: str
    speech: Sequence[bytes]
    """Sound files in the order of their turns."""
    asks: RowPrompt
    way: Asking
    stream: bool
    stream_usage: bool
    """Whether a stream ends with the numbers of tokens."""


def read_chat(body: bytes) -> ChatFields:
    """
    :raises Refusal: the body is not JSON, or a field is missing, unknown or has a value that is not allowed.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"found a body that is not JSON ({str(error)[:_SHOWN]})") from None
    if not isinstance(values, dict):
        _refuse("body", values, "an object with messages")
    # Clients send null for fields that are not given.
    fields = {name: value for name, value in values.items() if value is not None}
    for name, value in fields.items():
        if name in _ONE_VALUE and value not in _ONE_VALUE[name]:
            allowed = " or ".join(json.dumps(one) for one in _ONE_VALUE[name])
            _refuse(name, value, f"{allowed}, or none")
        if name not in _USED | _WITHOUT_EFFECT | _ONE_VALUE.keys():
            raise Refusal(400, f"found the field {name[:_SHOWN]!r}, expected {', '.join(sorted(_USED))}", param=name)
    speech, asks = _read_messages(fields.get("messages"), _text(fields, "context"))
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        _refuse("stream_options", options, '{"include_usage": true}')
    return ChatFields(
        model=_text(fields, "model"),
        speech=speech,
        asks=asks,
        way=_read_way(fields),
        stream=_flag(fields, "stream"),
        stream_usage=_flag(options, "include_usage"),
    )


def _read_way(fields: Mapping[str, Any]) -> Asking:
    limits = [name for name in ("max_completion_tokens", "max_tokens") if name in fields]
    max_tokens = int(_number(fields, limits[0], 1, _MOST_TOKENS, int)) if limits else _MAX_TOKENS
    temperature = float(_number(fields, "temperature", 0, 2)) if "temperature" in fields else None
    if temperature is not None and temperature < 1e-4:
        temperature = 0.0  # a decoder cannot divide by less
    top_p = float(_number(fields, "top_p", 0, 1)) if "top_p" in fields else None
    if top_p == 0:
        temperature, top_p = 0.0, None  # the likeliest token alone
    seed = int(_number(fields, "seed", -(2**63), 2**63 - 1, int)) if "seed" in fields else 0
    return Asking(max_tokens, temperature, top_p, seed)


def _read_messages(messages: object, context: str) -> tuple[Sequence[bytes], RowPrompt]:
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        _refuse("messages", messages, 'a list of {"role": ..., "content": ...}')
    first = 1 if messages[0].get("role") in ("system", "developer") else 0
    system = _join(_texts(messages[0], "messages[0]")) if first else ""
    turns = messages[first:]
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if turn.get("role") != expected:
            _refuse(f"messages[{first + place}].role", turn.get("role"),
                    f"{expected}: user and assistant by turns, behind one system message at most")
    if len(turns) % 2 == 0:
        _refuse("messages", messages[-1].get("role"), "a last message of the user's, with the speech")
    speech: list[bytes] = []
    history: list[dict[str, str]] = []
    for place, turn in enumerate(turns):
        where = f"messages[{first + place}]"
        if turn["role"] == "assistant":
            history.append({"role": "assistant", "content": _join(_texts(turn, where))})
            continue
        sound, text = _read_question(turn, where)
        speech += [] if sound is None else [sound]
        audio = {} if sound is None else {"audio": f"{where}, input_audio"}
        history.append({"role": "user", "content": text, **audio})
    instruction = history.pop()
    if "audio" not in instruction:
        raise Refusal(
            400, f"messages[{len(messages) - 1}]: found no input_audio, expected one: this server answers about speech",
            param="messages",
        )  # fmt: skip
    try:
        return speech, question(instruction["content"], context, history, system)
    except UserError as error:
        raise Refusal(400, f"messages: {error}", param="messages") from None


def _read_question(turn: Mapping[str, Any], where: str) -> tuple[bytes | None, str]:
    """
    :returns: the sound file, None for a turn in writing, and the text with `<speech>` in the place of the sound.
    """
    before: list[str] = []
    after: list[str] = []
    speech = None
    for place, part in enumerate(_parts(turn, where)):
        at = f"{where}.content[{place}]"
        if part.get("type") == "text":
            (before if speech is None else after).append(_text_of(part, at))
        elif part.get("type") != "input_audio":
            _refuse(f"{at}.type", part.get("type"), "text or input_audio")
        elif speech is not None:
            raise Refusal(400, f"{at}: found a second input_audio, expected one", param="messages")
        else:
            speech = _sound(part, at)
    if speech is None:
        return None, _join(before)
    # The same layout as `prompt.order` gives: an instruction after the speech begins on a line of its own.
    return speech, "\n".join(filter(None, [" ".join(filter(None, [_join(before), SPEECH])), _join(after)]))


def _sound(part: Mapping[str, Any], at: str) -> bytes:
    sound = part.get("input_audio")
    data = sound.get("data") if isinstance(sound, dict) else None
    if not isinstance(data, str):
        _refuse(f"{at}.input_audio.data", data, "a sound file in base64")
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        raise Refusal(400, f"{at}.input_audio.data: expected base64 ({error})", param="messages") from None


def _texts(turn: Mapping[str, Any], where: str) -> list[str]:
    texts = []
    for place, part in enumerate(_parts(turn, where)):
        if part.get("type") == "input_audio":
            raise Refusal(
                400,
                f"{where}.content[{place}]: found speech, expected it in messages of the user alone",
                param="messages",
            )
        if part.get("type") != "text":
            _refuse(f"{where}.content[{place}].type", part.get("type"), "text")
        texts.append(_text_of(part, f"{where}.content[{place}]"))
    return texts


def _parts(turn: Mapping[str, Any], where: str) -> Sequence[Mapping[str, Any]]:
    content = turn.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        _refuse(f"{where}.content", content, "a text, or a list of parts")
    return content


def _text_of(part: Mapping[str, Any], at: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        _refuse(f"{at}.text", text, "a text")
    if SPEECH in text:
        raise Refusal(400, f"{at}: found {SPEECH}, expected text: the speech stands where its part does",
                      param="messages")
    _check_unicode(at, text)
    return text


def _join(texts: Sequence[str]) -> str:
    return "\n".join(stripped for text in texts if (stripped := text.strip()))


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name, "")
    if not isinstance(text, str):
        _refuse(name, text, "a text")
    _check_unicode(name, text)
    return text


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, f"{name}: found half of a surrogate pair, expected text", param=name) from None


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        _refuse(name, value, "true or false")
    return value


def _number(
    fields: Mapping[str, Any], name: str, least: float, most: float, kind: type | tuple[type, ...] = (int, float)
) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        _refuse(name, value, f"a{' whole' if kind is int else ''} number from {least} to {most}")
    return value


def _refuse(name: str, found: object, expected: str) -> NoReturn:
    shown = json.dumps(found)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    raise Refusal(400, f"{name}: found {shown}, expected {expected}", param=name.partition("[")[0])
