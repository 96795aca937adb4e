"""Sentences of one small grammar in five languages, each the translation of the others."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from speechllm_plugin.errors import UserError

LANGUAGES = ("en", "de", "es", "fr", "it")


def _phrases(table: str) -> list[dict[str, str]]:
    """Phrases, one in each line, with its translations in the order of `LANGUAGES`."""
    rows = ([part.strip() for part in line.split("|")] for line in table.strip().splitlines())
    return [dict(zip(LANGUAGES, row, strict=True)) for row in rows]


PEOPLE = _phrases("""
    my sister     | meine Schwester | mi hermana     | ma sœur       | mia sorella
    my brother    | mein Bruder     | mi hermano     | mon frère     | mio fratello
    my mother     | meine Mutter    | mi madre       | ma mère       | mia madre
    my father     | mein Vater      | mi padre       | mon père      | mio padre
    the teacher   | der Lehrer      | el profesor    | le professeur | il professore
    the doctor    | der Arzt        | el médico      | le médecin    | il medico
    our neighbour | unser Nachbar   | nuestro vecino | notre voisin  | il nostro vicino
    Anna          | Anna            | Anna           | Anna          | Anna
    Laura         | Laura           | Laura          | Laura         | Laura
""")
ACTIONS = _phrases("""
    is reading a book        | liest ein Buch        | lee un libro     | lit un livre            | legge un libro
    is drinking a coffee     | trinkt einen Kaffee   | bebe un café     | boit un café            | beve un caffè
    is buying bread          | kauft Brot            | compra pan       | achète du pain          | compra il pane
    is eating an apple       | isst einen Apfel      | come una manzana | mange une pomme         | mangia una mela
    is writing a letter      | schreibt einen Brief  | escribe una carta | écrit une lettre       | scrive una lettera
    is looking for the key   | sucht den Schlüssel   | busca la llave   | cherche la clé          | cerca la chiave
    is waiting for the train | wartet auf den Zug    | espera el tren   | attend le train         | aspetta il treno
    is listening to music    | hört Musik            | escucha música   | écoute de la musique    | ascolta la musica
    is making dinner         | macht das Abendessen  | prepara la cena  | prépare le dîner        | prepara la cena
    is singing a song        | singt ein Lied        | canta una canción | chante une chanson     | canta una canzone
    is selling flowers       | verkauft Blumen       | vende flores     | vend des fleurs         | vende fiori
""")
"""The first word of the German phrase is the verb, after which subject, time and place are put."""
PLACES = _phrases("""
    in the garden  | im Garten      | en el jardín   | dans le jardin  | in giardino
    in the kitchen | in der Küche   | en la cocina   | dans la cuisine | in cucina
    at the station | am Bahnhof     | en la estación | à la gare       | alla stazione
    at the market  | auf dem Markt  | en el mercado  | au marché       | al mercato
    at home        | zu Hause       | en casa        | à la maison     | a casa
    in the park    | im Park        | en el parque   | au parc         | al parco
    at the office  | im Büro        | en la oficina  | au bureau       | in ufficio
    at the hotel   | im Hotel       | en el hotel    | à l'hôtel       | in hotel
""")
TIMES = _phrases("""
    today     | heute       | hoy        | aujourd'hui | oggi
    tomorrow  | morgen      | mañana     | demain      | domani
    tonight   | heute Abend | esta noche | ce soir     | stasera
    now       | jetzt       | ahora      | maintenant  | ora
    on Monday | am Montag   | el lunes   | lundi       | lunedì
    on Friday | am Freitag  | el viernes | vendredi    | venerdì
    on Sunday | am Sonntag  | el domingo | dimanche    | domenica
""")
FORMS: Sequence[tuple[bool, bool]] = ((False, True), (False, True), (True, False), (True, False), (True, True))
"""Whether a sentence has a time, and whether it has a place; forms are drawn evenly."""

Meaning = tuple[int | None, int, int, int | None]
"""Indices into `TIMES`, `PEOPLE`, `ACTIONS` and `PLACES`; None = the sentence has no such phrase."""
_PATIENCE = 1000
"""The grammar counts as exhausted after this many draws in a row without a new meaning."""


def make_meanings(seed: int, counts: Mapping[str, int]) -> dict[str, list[Meaning]]:
    """Draw ``counts[split]`` meanings for each split, none of them twice. A split depends only on the splits before it.

    :raises UserError: if the grammar cannot make that many.
    """
    generator = random.Random(seed)
    drawn: set[Meaning] = set()
    splits: dict[str, list[Meaning]] = {}
    for split, count in counts.items():
        splits[split] = []
        repetitions = 0
        while len(splits[split]) < count:
            meaning = _draw(generator)
            if meaning not in drawn:
                repetitions = 0
                drawn.add(meaning)
                splits[split].append(meaning)
                continue
            repetitions += 1
            if repetitions == _PATIENCE:
                raise UserError(f"{sum(counts.values())} sentences asked for, only {len(drawn)} could be made")
    return splits


def _draw(generator: random.Random) -> Meaning:
    timed, placed = generator.choice(FORMS)
    return (
        generator.randrange(len(TIMES)) if timed else None,
        generator.randrange(len(PEOPLE)),
        generator.randrange(len(ACTIONS)),
        generator.randrange(len(PLACES)) if placed else None,
    )


def say(meaning: Meaning, language: str) -> str:
    """The sentence, with a capital at its start and no full stop."""
    time, person, action, place = meaning
    before = "" if time is None else TIMES[time][language]
    subject, doing = PEOPLE[person][language], ACTIONS[action][language]
    behind = "" if place is None else PLACES[place][language]
    if language == "de":
        verb, _, rest = doing.partition(" ")
        # The verb is second: "Heute liest Anna im Garten ein Buch", "Anna liest im Garten ein Buch".
        parts = [before, verb, subject, behind, rest] if before else [subject, verb, behind, rest]
    else:
        parts = [before, subject, doing, behind]
    sentence = " ".join(part for part in parts if part)
    return sentence[0].upper() + sentence[1:]
