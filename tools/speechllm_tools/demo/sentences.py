"""Sentences of the demo's small domain: what one says to a voice assistant."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from speechllm_plugin.errors import UserError

# Words with two pronunciations ("close", "live", "read", "record") are left out, since the speech synthesiser would
# sometimes choose the wrong one.
PHRASES: Mapping[str, Sequence[str]] = {
    "appliance": ("coffee machine", "television", "radio", "heating", "fan", "oven", "washing machine"),
    "artist": ("mozart", "queen", "the beatles", "bob dylan", "madonna"),
    "brightness": ("ten", "twenty", "thirty", "forty", "fifty"),
    "city": ("london", "paris", "berlin", "rome", "chicago", "boston", "tokyo", "vienna"),
    "colour": ("red", "green", "blue", "yellow", "orange", "purple", "warm white"),
    "condition": ("rain", "snow", "be sunny", "be windy", "be cold"),
    "contact": (
        "anna", "peter", "maria", "david", "emma", "thomas", "sarah", "james", "my mother", "my father",
        "my brother", "my sister", "the doctor", "the office",
    ),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "daytime": ("morning", "afternoon", "evening"),
    "duration": (
        "one minute", "two minutes", "three minutes", "four minutes", "five minutes", "six minutes", "eight minutes",
        "ten minutes", "twelve minutes", "fifteen minutes", "twenty minutes", "twenty five minutes",
        "forty five minutes", "half an hour", "an hour", "two hours", "thirty seconds", "fifty seconds",
    ),
    "event": ("dinner", "lunch", "the meeting", "the concert", "the football match", "the party"),
    "food": ("pasta", "rice", "pizza", "bread", "cake", "potatoes", "soup", "chicken"),
    "genre": ("jazz", "classical music", "rock music", "piano music", "country songs", "quiet songs"),
    "groceries": ("milk", "butter", "cheese", "apples", "bananas", "tomatoes", "coffee", "sugar", "bread", "potatoes"),
    "hour": ("six", "seven", "eight", "nine", "ten", "eleven", "five", "four"),
    "light": ("lights", "lamp", "ceiling light"),
    "news": ("the news", "the traffic news", "the football results"),
    "part": ("in the morning", "in the afternoon", "in the evening", "at night"),
    "place": ("the airport", "the station", "the supermarket", "the museum", "the hospital", "the beach"),
    "room": ("kitchen", "bedroom", "living room", "bathroom", "hallway", "garage", "garden", "basement"),
    "task": (
        "water the plants", "call the bank", "feed the cat", "walk the dog", "pay the rent", "pick up the children",
        "book a table", "buy a present", "clean the windows", "wash the car",
    ),
    "temperature": ("fifteen", "sixteen", "eighteen", "twenty", "twenty one", "twenty two", "twenty four"),
    "text": (
        "i am running late", "i will be home soon", "dinner is ready", "we meet at the station",
        "the meeting is over", "we need more milk", "i am at the airport", "the train is late",
    ),
    "time": (
        "{hour}", "half past {hour}", "quarter to {hour}", "quarter past {hour}", "{hour} thirty", "{hour} fifteen",
    ),
    "volume": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "when": ("today", "this weekend", "on {day}", "tomorrow", "tonight", "tomorrow {daytime}"),
}  # fmt: skip
"""Phrases of each slot; a phrase may have slots of its own."""

TOPICS: Mapping[str, Sequence[str]] = {
    "timers": (
        "set a timer for {duration}",
        "set a {food} timer for {duration}",
        "start a countdown of {duration} for the {food}",
        "add {duration} to the {food} timer",
        "stop the {food} timer and start one for {duration}",
    ),
    "alarms": (
        "wake me up at {time} on {day}",
        "set an alarm for {time} {part}",
        "move my {day} alarm to {time}",
        "cancel the alarm at {time} on {day}",
        "wake me with {genre} at {time}",
    ),
    "lights": (
        "turn on the {light} in the {room}",
        "turn off the {room} {light} in {duration}",
        "make the {room} {light} {colour}",
        "dim the {room} {light} to {brightness} percent",
        "set the {light} in the {room} to {colour} at {time}",
        "switch the {room} {light} off at {time}",
    ),
    "home": (
        "turn on the {appliance} in the {room}",
        "switch off the {appliance} at {time}",
        "start the {appliance} in {duration}",
        "set the {room} to {temperature} degrees",
        "keep the {room} at {temperature} degrees until {time}",
        "is the {appliance} in the {room} still on",
        "lock the {room} door at {time}",
    ),
    "music": (
        "play some {genre} in the {room}",
        "play {genre} by {artist}",
        "play the new album by {artist} in the {room}",
        "set the volume in the {room} to {volume}",
        "play {artist} for {duration}",
        "stop the music in the {room} after {duration}",
        "add this song by {artist} to my {day} list",
    ),
    "weather": (
        "what is the weather like in {city} {when}",
        "will it {condition} in {city} {when}",
        "how warm will it be in {city} {when}",
        "do i need an umbrella in {city} {when}",
        "when does the sun set in {city} {when}",
    ),
    "reminders": (
        "remind me to {task} at {time}",
        "remind me to {task} on {day} {daytime}",
        "remind {contact} to {task} {when}",
        "add {groceries} and {groceries} to the shopping list",
        "remove {groceries} from the shopping list and add {groceries}",
        "in {duration} remind me about the {food}",
    ),
    "messages": (
        "call {contact} in {duration}",
        "tell {contact} that {text}",
        "send a message to {contact} saying {text}",
        "ask {contact} about {event} {when}",
        "do i have new messages from {contact} or {contact}",
        "invite {contact} and {contact} to {event}",
    ),
    "calendar": (
        "what is on my calendar {when} at {time}",
        "put {event} with {contact} on my calendar for {day}",
        "move {event} from {day} to {day}",
        "when is {event} with {contact}",
        "cancel {event} with {contact} on {day}",
    ),
    "knowledge": (
        "what time is it in {city} when it is {time} in {city}",
        "how far is {place} from {place}",
        "how long does it take from {city} to {city} by train",
        "tell me {news} from {city} {part}",
        "show me the way to {place} and then to {place}",
        "find a hotel near {place} in {city}",
    ),
}
"""Templates of each topic. Topics are drawn evenly, and then the templates of a topic."""

FRAMES: Sequence[str] = ("{}", "{}", "{}", "{}", "please {}", "hey computer {}", "{} please", "okay {}")
"""Frames around a request."""

# The grammar counts as exhausted after this many draws in a row without a new sentence.
_PATIENCE = 1000

_SLOT = re.compile(r"\{(\w+)\}")


def make_sentences(
    seed: int,
    counts: Mapping[str, int],
    topics: Mapping[str, Sequence[str]] = TOPICS,
    phrases: Mapping[str, Sequence[str]] = PHRASES,
) -> dict[str, list[str]]:
    """Draw ``counts[split]`` sentences for each split, in lower case and without punctuation.

    No two sentences, in one split or in two, make the same request; courtesies around it do not count. A split depends
    only on the splits before it: with the test splits first, these stay the same when training grows.

    :raises UserError: if the grammar cannot make that many.
    """
    generator = random.Random(seed)
    requests: set[str] = set()
    splits: dict[str, list[str]] = {}
    for split, count in counts.items():
        sentences = splits[split] = []
        repetitions = 0
        while len(sentences) < count:
            request = _draw_request(generator, topics, phrases)
            if request not in requests:
                repetitions = 0
                requests.add(request)
                sentences.append(generator.choice(FRAMES).format(request))
                continue
            repetitions += 1
            if repetitions == _PATIENCE:
                raise UserError(f"{sum(counts.values())} sentences asked for, only {len(requests)} could be made")
    return splits


def _draw_request(
    generator: random.Random, topics: Mapping[str, Sequence[str]], phrases: Mapping[str, Sequence[str]]
) -> str:
    template = generator.choice(topics[generator.choice(list(topics))])
    used: set[str] = set()

    def draw(slot: re.Match[str]) -> str:
        phrase = _SLOT.sub(draw, generator.choice([p for p in phrases[slot[1]] if p not in used]))
        # Nobody asks for "from rome to rome".
        used.add(phrase)
        return phrase

    return _SLOT.sub(draw, template)
