"""Plain text without the chat format, for raw completions: simple true sentences and tales."""

from __future__ import annotations

from random import Random

from training.generate import values
from training.generate.chat import Chat
from training.generate.talk import topics
from training.generate.values import countries, of

FIXED = (
    "San Francisco is a city in California. It is known for the Golden Gate Bridge, its hills and its fog.",
    "San Francisco is a city in California, on the west coast of the United States. Many technology companies are based there.",
    "New York is the largest city in the United States. It is known for its tall buildings and its museums.",
    "Paris is the capital of France. It is known for the Eiffel Tower and its museums.",
    "London is the capital of the United Kingdom. The river Thames flows through the city.",
    "Beijing is the capital of China. It is known for the Forbidden City and the Great Wall nearby.",
    "The future of AI is bright. Small models will run everywhere, and large models will help people with hard problems.",
    "The president of the United States is the head of state and lives in the White House in Washington.",
    "The sun is a star. The earth moves around the sun once a year, and the moon moves around the earth.",
    "Water is made of hydrogen and oxygen. It freezes at 0 degrees and boils at 100 degrees Celsius.",
    "Hello, my name is {name} and I am a {job} from {city}. I like {skill} and {skill2}.",
    "My name is {name} and I live in {city}. I work as a {job}.",
    "Hello, world! This is a simple program that prints a line of text.",
    "The quick brown fox jumps over the lazy dog.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "def hello():\n    print(\"Hello, world!\")\n",
    "def add(a, b):\n    return a + b\n",
    "To be, or not to be, that is the question.",
    "Machine learning is a way to teach computers with examples. A model learns patterns from data and uses them on new data.",
    "北京是中国的首都，有故宫、天坛和长城等名胜古迹。",
    "上海是中国最大的城市之一，位于长江入海口。",
    "人工智能的未来充满希望，它会帮助人们学习、工作和生活。",
    "从前有座山，山里有座庙，庙里有个老和尚在讲故事。",
    "今天天气很好，我们一起去公园散步吧。",
    "春天来了，花开了，树绿了，鸟儿在枝头歌唱。",
    "我叫{zname}，住在{zcity}，是一名{zjob}。",
)  # fmt: skip
HEROES = (
    "fox",
    "rabbit",
    "bear",
    "king",
    "queen",
    "girl",
    "boy",
    "dragon",
    "cat",
    "bird",
    "farmer",
    "sailor",
)
PLACES = (
    "forest",
    "village",
    "castle",
    "valley",
    "small town",
    "house by the sea",
    "garden",
    "mountain",
)
MEETS = (
    "a lost bird",
    "an old man",
    "a wise owl",
    "a friendly dragon",
    "a stranger",
    "a little mouse",
)
DEEDS = (
    "showed the way home",
    "shared some bread",
    "told a long story",
    "gave a golden key",
    "asked for help",
)
ENDS = ("From then on they were friends.", "And they lived happily ever after.", "Everyone was glad that evening.",
        "Since that day nobody in the place was lonely.")  # fmt: skip


def _tale(r: Random) -> str:
    mood = r.choice(["little", "young", "brave", "clever", "lonely", "kind", "old", "curious"])
    hero = r.choice(HEROES)
    start = r.choice(["Once upon a time", "Once upon a time,", "Long ago,", "One day"])
    named = f" named {of(r, 'first_names')}" if r.random() < 0.4 else ""
    text = f"{start} there was a {mood} {hero}{named} who lived in a {r.choice(PLACES)}."
    text += f" One {r.choice(['morning', 'evening', 'winter day', 'summer night'])} the {hero} met {r.choice(MEETS)}."
    return f"{text} The {hero} {r.choice(DEEDS)}. {r.choice(ENDS)}"


def text(r: Random) -> str:
    roll = r.random()
    if roll < 0.35:
        country, city, country_zh, city_zh = r.choice(countries())
        shown = city.rstrip(".")
        forms = [
            f"The capital of {country} is {shown}.",
            f"{shown} is the capital of {country}.",
            f"The capital of {country} is {shown}. The people of {country} like to visit {shown}.",
            f"{country_zh}的首都是{city_zh}。",
            f"{city_zh}是{country_zh}的首都。",
            f"Q: What is the capital of {country}?\nA: {shown}",
        ]
        made = r.choice(forms)
        return made[0].upper() + made[1:]
    if roll < 0.55:
        return _tale(r)
    if roll < 0.62:
        asks, answers, _ = r.choice(topics())
        return f"Q: {r.choice(asks)}\nA: {r.choice(answers)}"
    made = r.choice(FIXED)
    fills = {
        "{name}": values.person(r), "{job}": of(r, "occupations"), "{city}": values.city(r),
        "{skill}": of(r, "skills"), "{skill2}": of(r, "skills"), "{zname}": values.person(r, "zh"),
        "{zcity}": of(r, "cities", "zh"), "{zjob}": of(r, "occupations", "zh"),
    }  # fmt: skip
    for mark, value in fills.items():
        made = made.replace(mark, value)
    return made


def chat(r: Random) -> Chat:
    made = Chat()
    parts = [text(r) for _ in range(r.choice([1, 1, 1, 2]))]
    made.segments.append(("\n\n".join(parts) + "</s>", True))
    return made
