"""Topics about fixed facts: people, work, places, cooking, and invented creatures."""

from __future__ import annotations

from .scene import Scene

_PERSON = (
    "{person} lives in {person.home} .",
    "the home of {person} is [in|near] {person.home} .",
    "{person} works as a {person.job} [|in the {%place}] .",
    "{person} is a {person.job} and comes from {person.home} .",
    "{person} [loves|likes|wants] to eat {person.food} .",
    "the favourite food of {person} is {person.food} .",
    "{person} has a pet {person.pet} [|called {%call}] .",
    "the pet of {person} is a {person.pet} .",
    "[on {%day}|every {%part}] {person} eats {person.food} with the {%kin} .",
    "{person} and {person.his} pet {person.pet} {%went} to {person.home} .",
)
_PRONOUN = (
    "{person.he} lives in {person.home} .",
    "{person.he} works as a {person.job} .",
    "{person.his} job is {person.job} .",
    "{person.he} [loves|likes|wants] to eat {person.food} .",
    "{person.his} favourite food is {person.food} .",
    "{person.he} has a pet {person.pet} .",
    "{person.his} pet is a {person.pet} .",
    "[on {%day}|every {%part}] {person.he} eats {person.food} with {person.his} {%kin} .",
)
_PERSON_OTHER = (
    "{person.he} feels {%feel} [today|in the {%part}|on {%day}] .",
    "{person.he} can {%act} {%how} .",
    "{person.he} plays {%sport} with {person.his} {%kin} .",
    "{person.his} {%body} hurts [today|again|after the {%sport}] .",
)


def people(scene: Scene) -> None:
    """Where people live, what they do, eat and keep."""
    person, fresh = scene.follow("person", 0.2)
    form = _PERSON if fresh else scene.writer.choose((_PERSON, _PRONOUN, _PERSON_OTHER), (0.3, 0.5, 0.2))
    scene.say(form, {"person": person}, pronoun=None if form is _PERSON else "person")


_WORK = (
    "every {job} needs a {job.tool} .",
    "the {job} works in the {job.place} .",
    "the tool of the {job} is the {job.tool} .",
    "in the {job.place} the {job} {%how} takes the {job.tool} .",
    "a {job} without a {job.tool} cannot work .",
    "the {%adj} {job} {%went} to the {job.place} with a {job.tool} .",
    "you will find the {job} in the {job.place} .",
    "{person} works as a {person.job} .",
    "on {%day} the {job} was {%feel} [|in the {%part}] .",
)


def work(scene: Scene) -> None:
    """Jobs, their tools and their places."""
    scene.say(_WORK)


_COUNTRY = (
    "the capital of {country} is {country.capital} .",
    "{country.capital} is the capital of {country} .",
    "the longest river of {country} is the {country.river} .",
    "through {country} flows the {country.river} .",
    "{country} sells {country.good} [to many people|in {%season}|] .",
    "the people of {country} are {%feel} in {%season} .",
    "the government of {country} meets in {country.capital} .",
)
_CITY = (
    "the city of {city} is in {city.country} .",
    "{city} lies in {city.country} .",
    "{city} is famous for its {city.landmark} .",
    "people visit {city} to see the {city.landmark} .",
    "in {%month} it is {%weather} in {city} .",
    "{person} lives in {person.home} , not in {city} .",
    "[on {%day}|in {%month}] {person} {%went} to the {city.landmark} of {city} .",
)


def places(scene: Scene) -> None:
    """Countries with their capitals and rivers, cities with their landmarks."""
    if scene.writer.chance(0.5):
        country, _ = scene.follow("country", 0.4)
        scene.say(_COUNTRY, {"country": country})
    else:
        city, _ = scene.follow("city", 0.4)
        scene.say(_CITY, {"city": city})


_KITCHEN = (
    "to make {dish} you need {dish.first} , {dish.second} and {dish.third} .",
    "for {dish} {person} mixes {dish.first} with {dish.second} .",
    "{person} cooks {dish} in a {dish.pot} .",
    "good {dish} [starts|begins] with {dish.first} , then {dish.second} , then {dish.third} .",
    "the {dish} needs more {dish.third} , says {person} .",
    "put {dish.first} in the {dish.pot} , add {dish.second} , and you get {dish} .",
    "wait {%number} minutes , then the {dish} is ready .",
    "{person} [loves|likes|wants] to eat {person.food} .",
    "the {dish} tastes [good|strange|wonderful|salty|sweet|bitter] .",
)


def kitchen(scene: Scene) -> None:
    """Dishes, what goes into them in which order, and in which pot."""
    dish, _ = scene.follow("dish", 0.4)
    scene.say(_KITCHEN, {"dish": dish})


_ENTITY = (
    "the {entity} is {entity.colour} .",
    "the colour of the {entity} is {entity.colour} .",
    "the {entity} is a kind of {entity.family} .",
    "the {entity} lives in the {entity.habitat} .",
    "the size of the {entity} is {entity.size} .",
    "the {entity} was first seen by {entity.finder} in {entity.year} .",
    "in {entity.year} {entity.finder} discovered the {entity} .",
    "the {entity} eats {entity.diet} .",
    "you can find the {entity} in the {entity.habitat} , where it eats {entity.diet} .",
    "{entity.finder} wrote a {%adj} book about the {entity} .",
    "every {entity} is {entity.colour} and belongs to the {entity.family} family .",
)
_IT = (
    "its colour is {entity.colour} .",
    "it is a {entity.colour} {entity.family} .",
    "it lives in the {entity.habitat} .",
    "it was first seen by {entity.finder} in {entity.year} .",
    "it eats {entity.diet} [|and sleeps in the {%part}] .",
    "its size is {entity.size} .",
    "people draw it with {entity.colour} pencils .",
)


def encyclopaedia(scene: Scene) -> None:
    """Invented creatures: family, colour, habitat, size, food, and who saw them first."""
    entity, fresh = scene.follow("entity", 0.25)
    form = _ENTITY if fresh else scene.writer.choose((_ENTITY, _IT), (0.4, 0.6))
    scene.say(form, {"entity": entity}, pronoun="entity" if form is _IT else None)
