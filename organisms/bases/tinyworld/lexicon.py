"""The lexicon: the words that the world and the grammar draw from."""

from __future__ import annotations

COLOURED: dict[str, tuple[str, ...]] = {
    colour: tuple(words.split())
    for colour, words in {
        "blue": "sky sea ocean lagoon lake bay whale dolphin kingfisher jay bluebell cornflower sapphire ink "
        "denim jeans blueberry hyacinth peacock swordfish marlin glacier iceberg horizon fjord wave tide "
        "fountain pond puddle raindrop stream waterfall uniform mailbox globe ribbon balloon passport pool "
        "butterfly shark tuna sardine cobalt swallow",
        "green": "grass leaf fern moss ivy clover cactus frog lizard toad crocodile alligator iguana cucumber "
        "lettuce cabbage broccoli pear lime emerald jade meadow lawn hedge bush pine spruce palm bamboo "
        "seaweed turtle parrot cricket grasshopper mantis caterpillar pickle avocado basil kale willow "
        "vine jungle algae dragon tractor",
        "red": "tomato cherry strawberry ruby rose poppy brick barn ladybird blood cardinal lava robin crab "
        "lobster apple",
        "yellow": "sun lemon banana canary sunflower daffodil taxi corn chick buttercup dandelion pineapple "
        "sponge submarine topaz wasp",
        "white": "snow cloud swan sheep paper pearl cotton lily daisy ghost igloo dove chalk moon",
        "black": "coal raven crow night tar panther tyre spider soot ebony piano shadow",
        "brown": "bear chestnut mud bark acorn cork beaver otter walnut leather camel sparrow",
        "grey": "elephant mouse pebble donkey wolf ash statue pigeon koala seal",
        "pink": "flamingo piglet peony tulip coral tongue blossom salmon shrimp orchid",
        "purple": "grape violet lavender amethyst aubergine heather lilac thistle plum beetroot",
    }.items()
}
COLOURS = tuple(COLOURED)

OBJECTS = tuple(
    "cup box chair lamp bottle kite bag mug plate basket bucket pillow blanket curtain carpet vase candle "
    "notebook pencil bowl jar drum ladder bench stool shelf drawer mirror clock teapot spoon comb towel "
    "suitcase tent ball doll robot puzzle wagon".split()
)
BELONGINGS = tuple("hat coat car bike house scarf shirt dress door boat kitchen phone".split())

WOMEN = tuple(
    "anna clara emma grace hanna julia karin laura maria nora olga paula rita sara tina vera wanda zoe "
    "lucy molly alice betty carol diana ellen fiona gina helen irene jane".split()
)
MEN = tuple(
    "ben carl david erik felix george henry ivan jack karl leo martin nils oscar peter robert simon tom "
    "victor walter adam bruno colin dennis frank gary hugo jacob kevin louis".split()
)
PETS = tuple("dog cat rabbit hamster goldfish pony goat tortoise snake duck goose hen ferret gerbil".split())

# job: tool, place of work
JOBS: dict[str, tuple[str, str]] = {
    "baker": ("whisk", "bakery"),
    "carpenter": ("saw", "workshop"),
    "painter": ("brush", "studio"),
    "farmer": ("plough", "farm"),
    "nurse": ("syringe", "hospital"),
    "teacher": ("blackboard", "school"),
    "doctor": ("thermometer", "clinic"),
    "sailor": ("compass", "ship"),
    "pilot": ("radio", "airport"),
    "tailor": ("needle", "shop"),
    "butcher": ("knife", "market"),
    "barber": ("razor", "salon"),
    "gardener": ("rake", "park"),
    "plumber": ("wrench", "cellar"),
    "mason": ("trowel", "quarry"),
    "miner": ("pickaxe", "mine"),
    "fisher": ("net", "harbour"),
    "hunter": ("rifle", "woods"),
    "cook": ("pan", "restaurant"),
    "writer": ("pen", "library"),
    "judge": ("gavel", "court"),
    "singer": ("microphone", "opera"),
    "dancer": ("shoes", "theatre"),
    "firefighter": ("hose", "station"),
    "photographer": ("camera", "gallery"),
    "blacksmith": ("hammer", "forge"),
    "lumberjack": ("hatchet", "sawmill"),
    "dentist": ("drill", "surgery"),
    "scientist": ("microscope", "laboratory"),
    "monk": ("bell", "abbey"),
    "jeweller": ("loupe", "boutique"),
    "postman": ("bicycle", "depot"),
}

# dish: three ingredients in the order in which they are always told, and the pot
DISHES: dict[str, tuple[str, str, str, str]] = {
    "soup": ("carrots", "onions", "salt", "pot"),
    "pancakes": ("flour", "eggs", "milk", "skillet"),
    "stew": ("beef", "potatoes", "pepper", "cauldron"),
    "bread": ("flour", "water", "yeast", "tin"),
    "curry": ("chicken", "rice", "ginger", "wok"),
    "pasta": ("noodles", "garlic", "oil", "pot"),
    "porridge": ("oats", "milk", "honey", "saucepan"),
    "salad": ("radishes", "olives", "vinegar", "dish"),
    "pizza": ("dough", "cheese", "oregano", "tray"),
    "pudding": ("cream", "sugar", "vanilla", "mould"),
    "lasagne": ("noodles", "cheese", "nutmeg", "tray"),
    "sushi": ("rice", "fish", "soy", "mat"),
    "tacos": ("tortillas", "beans", "chili", "skillet"),
    "waffles": ("butter", "eggs", "syrup", "press"),
    "risotto": ("rice", "mushrooms", "wine", "saucepan"),
    "goulash": ("beef", "onions", "paprika", "cauldron"),
    "dumplings": ("dough", "pork", "chives", "steamer"),
    "muffins": ("flour", "raisins", "cinnamon", "tin"),
    "chowder": ("clams", "potatoes", "thyme", "pot"),
    "hummus": ("chickpeas", "garlic", "sesame", "blender"),
    "sandwiches": ("toast", "ham", "mayonnaise", "board"),
    "kebab": ("lamb", "yoghurt", "cumin", "grill"),
    "meatballs": ("pork", "breadcrumbs", "parsley", "skillet"),
    "ratatouille": ("courgettes", "peppers", "rosemary", "saucepan"),
    "cheesecake": ("biscuits", "cream", "sugar", "mould"),
    "paella": ("rice", "mussels", "saffron", "wok"),
    "fondue": ("cheese", "wine", "bread", "cauldron"),
    "trifle": ("custard", "jelly", "almonds", "bowl"),
}

SYLLABLES = tuple(
    "ba be bo bra da del do dra fa fen fi ga gor gri ha hel ka kel ki kro la len lo lu ma mel mi mor na nel no "
    "pa pel po pra ra rel ri ro sa sel so sti ta tel ti tor va vel vi vor wa wen za zel zi zor".split()
)
CITY_TAILS = tuple("ville ton burg field ford port by mouth stad grad".split())
COUNTRY_TAILS = tuple("land ia stan mark".split())
RIVER_TAILS = tuple("ne ra mo sk l".split())
ENTITY_TAILS = tuple("x p k m sh b rt ng".split())
FINDER_TAILS = tuple("son sen man ski well".split())
LANDMARKS = tuple("tower bridge castle cathedral museum zoo temple palace stadium lighthouse fortress".split())
GOODS = tuple("silk wool copper silver tea coffee timber glass pottery carpets spices tobacco".split())

FAMILIES = tuple("bird reptile rodent insect mollusc monkey deer cat whale worm fox lynx".split())
HABITATS = tuple(
    "desert swamp forest cave mountain steppe reef island prairie tundra canyon savanna delta cliff".split()
)
SIZES = tuple("tiny small medium large huge gigantic".split())
DIETS = tuple("seeds roots ants berries snails nuts eggs algae fungi nectar crumbs beetles acorns plankton".split())
YEARS = tuple(str(1700 + 11 * index) for index in range(26))

FREE: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "adj": "big small new warm cold quiet loud heavy light long short soft hard clean dirty wet dry "
        "strange lovely pretty plain grand calm busy rough smooth bright dark fresh rich simple famous",
        "feel": "happy sad tired angry hungry thirsty proud nervous bored afraid excited sleepy lonely curious",
        "spot": "window table door wall tree bed sofa stairs garden gate river road fence roof corner stove",
        "place": "market station school park beach castle forest harbour library hospital village cinema museum "
        "cafe bank bakery farm church hotel tunnel island stadium",
        "went": "walked ran drove went cycled hurried travelled wandered returned",
        "good": "letter loaf ticket newspaper book map coin key toy cake flower sweater raincoat guitar violin "
        "necklace watch magazine parcel lantern",
        "did": "bought lost found sold carried opened dropped cleaned painted wanted borrowed hid broke repaired",
        "met": "met saw called helped visited followed thanked greeted",
        "day": "monday tuesday wednesday thursday friday saturday sunday",
        "part": "morning afternoon evening",
        "month": "january february march april may june july august september october november december",
        "season": "spring summer autumn winter",
        "weather": "sunny rainy windy foggy stormy cloudy snowy mild chilly humid freezing",
        "number": "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty",
        "animal": "horses cows pigs birds bees kittens puppies foxes rabbits wolves ants geese",
        "act": "sing dance swim read sleep cook paint jump laugh climb skate write play dream knit whistle",
        "acting": "singing dancing swimming reading sleeping cooking jumping laughing climbing talking waiting",
        "how": "slowly quickly quietly loudly carefully happily sadly gently proudly suddenly",
        "kin": "mother father sister brother uncle aunt cousin friend neighbour grandmother",
        "sport": "football tennis chess hockey golf rugby volleyball cards",
        "body": "hand foot head knee arm back tooth ear finger shoulder",
        "call": "rusty buddy lucky snoopy bella rocky coco teddy",
        "text": "book letter song poem report",
        "topic": "music history science politics money love travel art weather health",
    }.items()
}
