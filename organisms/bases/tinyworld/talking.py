"""Topics of talk: questions with answers, dialogue, little stories, and the weather."""

from __future__ import annotations

from .scene import Scene

_COLOUR_QUESTIONS = (
    "question : what colour is the [|{%adj}] {thing} ? answer : {thing.colour} .",
    "question : what is the colour of the {thing} ? answer : {thing.colour} .",
    "question : which paint do you need for the {thing} ? answer : {thing.colour} .",
    "question : what colour is {belonging} ? answer : {belonging.colour} .",
    "question : what colour is the {entity} ? answer : {entity.colour} .",
    "question : {person} draws the {thing} . which colour ? answer : {thing.colour} .",
)
_QUESTIONS = (
    "question : where does {person} live ? answer : in {person.home} .",
    "question : what does {person} do ? answer : {person.he} is a {person.job} .",
    "question : what does {person} like to eat ? answer : {person.food} .",
    "question : which pet does {person} have ? answer : a {person.pet} .",
    "question : what is the capital of {country} ? answer : {country.capital} .",
    "question : which river flows through {country} ? answer : the {country.river} .",
    "question : in which country is {city} ? answer : {city.country} .",
    "question : what does the {job} need ? answer : a {job.tool} .",
    "question : where does the {entity} live ? answer : in the {entity.habitat} .",
    "question : who first saw the {entity} ? answer : {entity.finder} .",
    "question : what does the {entity} eat ? answer : {entity.diet} .",
    "question : what comes first in {dish} ? answer : {dish.first} .",
)


def questions(scene: Scene) -> None:
    """Questions about the world and their answers."""
    scene.say(scene.writer.choose((_COLOUR_QUESTIONS, _QUESTIONS), (0.4, 0.6)))


_DIALOGUE = (
    "{person} : hello {person2} , how are you [|today] ? {person2} : i am {%feel} .",
    "{person} : what colour is the {thing} ? {person2} : it is {thing.colour} .",
    "{person} : tell me the colour of the {thing} . {person2} : {thing.colour} , of course .",
    "{person} : where were you on {%day} ? {person2} : in the {%place} .",
    "{person} : can you {%act} ? {person2} : [yes|no] , [but {%how}|never|very well|not yet] .",
    "{person} : who lives in {person2.home} ? {person3} : {person2} , i think .",
    "{person} : what do you want to eat ? {person} : {person.food} , please .",
    "{person} : let us talk about {%topic} . {person2} : [no|yes|please|gladly|later] .",
    "{person} : thank you for the {%good} . {person2} : you are welcome .",
    "{person} : the {%place} is {%adj} . {person2} : [really|why|since when|i know] ?",
    "{person} : is the {thing} very {%adj} ? {person2} : [yes|no|perhaps] .",
    "{person} : do you play {%sport} ? {person2} : only in {%season} .",
)


def dialogue(scene: Scene) -> None:
    """Two people talk."""
    scene.say(_DIALOGUE)


_STORY = (
    "[one|every|that] {%part} {person} {%went} to the {%adj} {%place} .",
    "{person} {%did} a {%adj} {%good} in the {%place} .",
    "{person} {%met} the {%kin} of {person2} [|on {%day}|in {%month}|by the {%spot}] .",
    "there were {%number} {%animal} near the {%place} .",
    "the {%animal} were {%feel} and {%acting} .",
    "{person} and {person2} were {%acting} {%how} by the {%spot} .",
    "nobody {%met} {person} [|in {%season}|on {%day}] .",
    "after {%number} days the {%kin} was {%feel} again .",
    "{person} wrote a {%text} about {%topic} .",
    "then {person} {%did} {%number} {%adj} books .",
    "under the {%adj} {thing} {person} {%how} {%did} a {%good} .",
)


def story(scene: Scene) -> None:
    """Little scenes with much free choice."""
    scene.say(_STORY)


_WEATHER = (
    "in {%month} the weather is {%weather} .",
    "[today|on {%day}] it is {%weather} and {%weather} .",
    "the {%season} was {%weather} , the {%part} was {%adj} .",
    "it rained for {%number} [days|hours|weeks] in {city} .",
    "{person} likes {%weather} weather .",
    "the {thing} is very {%adj} [|today|now] .",
    "after a {%weather} {%part} the {%animal} are {%feel} .",
    "on {%day} the {thing} seems {%adj} .",
)


def weather(scene: Scene) -> None:
    """Sun, rain and seasons."""
    scene.say(_WEATHER)
