#!/usr/bin/env python3
"""Trains the router of outline mode (parallel/outline/router.cpp) and writes its weights: jobs/train/train-router.py

Logistic regression on words, pairs of words and the first words of a question. Learned from tests/data/
router_wizardlm.csv (labels of the Skeleton-of-Thought authors) and from the questions below, written for this purpose;
tested on tests/data/router_vicuna.csv, which nothing here learns from. Standard library only; the same weights each time.
"""
import csv
import math
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "parallel" / "outline" / "router_weights.cpp"
KEPT = 420  # features with the largest weights

TOPICS = ["solar power", "a good night's sleep", "remote work", "electric cars", "public libraries", "urban gardening",
          "social media", "a healthy breakfast", "space exploration", "recycling", "team meetings", "the minimum wage",
          "online courses", "vaccines", "inflation", "coral reefs", "the printing press", "high school sports",
          "volunteering", "stress at work", "learning a language", "saving money", "rivers and lakes", "robots"]
PAIRS = [("cats", "dogs"), ("tea", "coffee"), ("renting a home", "buying one"), ("stocks", "bonds"),
         ("trains", "aeroplanes"), ("a virus", "a bacterium"), ("cotton", "wool"), ("democracy", "monarchy"),
         ("running", "swimming"), ("paper books", "electronic books"), ("organic farming", "conventional farming"),
         ("a laptop", "a tablet")]
EVENTS = ["the wheel had never been invented", "everyone could read minds", "the Roman Empire had lasted until today",
          "Columbus had sailed east", "electricity had been discovered in antiquity", "bees died out",
          "Einstein had become a violinist", "the moon were twice as close", "Shakespeare had written in Latin",
          "antibiotics had never been found", "the Black Death had not happened", "paper had not been invented"]
WHO = ["a pirate captain", "a time traveller", "Sherlock Holmes", "a weather presenter", "a mountain guide",
       "the mayor of a small town", "a chef in a busy kitchen", "a Viking", "a detective", "an astronaut on Mars",
       "a football coach", "an alien ambassador"]
THINGS = ["your morning", "the view from the window", "a storm at sea", "the opening of a new bridge", "your favourite meal",
          "the last minute of a match", "a walk through a forest", "the first day at school"]
COUNTS = ["leaves are on a large oak", "cups of tea are drunk in London each day", "times does a heart beat in a year",
          "bricks are in a house", "songs does a radio station play in a month", "dogs live in Paris",
          "litres of water does a city use in a day", "letters are in a thick novel", "buses does a big town need"]
CODE = ["sort a list of numbers", "find the shortest path in a grid", "check whether a word is a palindrome",
        "merge two sorted lists", "reverse a linked list", "print all prime numbers below n", "parse a date",
        "count the words of a file", "compute a factorial recursively", "invert a binary tree"]
LANGUAGES = ["Python", "C++", "Java", "Rust", "JavaScript"]
SUMS = ["If 3 x + 5 = 20, what is x?", "What is the sum of the first 50 even numbers?", "Solve 2 x^2 - 8 = 0.",
        "If f(x) = x^2 + 3 x, find the value of f(4).", "Given that a b = 12 and a + b = 7, find a and b.",
        "A bag has 4 red and 6 blue balls; what is the probability of drawing two red ones?",
        "Find the derivative of sin(x) times x.", "How much is 15 percent of 240?",
        "A train leaves at 3 pm at 80 km per hour; when does it arrive 200 km away?", "Evaluate 7 * 8 - 6 / 2.",
        "Determine the area of a triangle with sides 3, 4 and 5.", "What is the remainder of 100 divided by 7?"]
SUITS = ["How can I get better at {}?", "What are the main benefits of {}?", "What are the advantages and drawbacks of {}?",
         "What are some common mistakes with {}?", "Give tips for {}.", "How does {} affect the economy?",
         "Explain the causes and effects of {}, and discuss what can be done.", "What role does {} play in society?",
         "Why is {} important, and how might it change in the future?", "Describe the history of {} and its influence.",
         "What are the most effective ways to deal with {}?", "How do governments use {} to reach their goals?",
         "How can you tell whether information about {} can be trusted?", "Why might someone be against {}?",
         "Discuss the ethical questions that {} raises.", "What factors influence {}?",
         "How might {} affect mental health and relationships?", "What are some subtle signs that {} matters to people?"]
SUITS_PAIR = ["What are the differences between {} and {}?", "Compare {} with {}.", "How do {} and {} differ, and which is better?",
              "What are the pros and cons of {} versus {}?"]
SUITS_EVENT = ["What if {}?", "What would the world be like if {}?", "How would history have changed if {}?"]
NOT_WHO = ["Pretend to be {} and describe {}.", "As {}, tell us about {}.", "You are {}: talk about {}.",
           "Imagine you are {} and write about {}.", "How would you describe {1} if you were {0}?",
           "Imagine yourself as {}. What would you say about {}?", "How would {} introduce himself while talking about {}?",
           "Picture yourself as {}. Describe {}."]
NOT_TOPIC = ["Write a poem about {}.", "Write a letter to a newspaper about {}.", "Draft an email to a colleague on {}.",
             "Compose a short story in which {} matters.", "Write a persuasive essay on {}.", "Write a song about {}.",
             "Create a dialogue between two friends about {}.", "Write a review of a film about {}.",
             "Can you write a product description for {}?", "Write a captivating blog post on {}.",
             "Help me write a speech on {}.", "Design a captivating headline for an article on {}.",
             "Write a script for a video on {}.", "Could you write an announcement of an event about {}?"]
NOT_COUNT = ["How many {}? Try to explain your answer. Take the reader through your reasoning step by step.",
             "How many {}? Show your reasoning.", "Estimate how many {} and explain each step of your reasoning."]
NOT_CODE = ["Write a {1} function to {0}.", "Implement a {1} program to {0}.", "Develop a {1} class that can {0}.",
            "{0} in {1}: give an efficient algorithm.", "Implement an algorithm to {0}.", "Use {1} to {0}."]


def own_questions():
    """(suits, question) pairs."""
    made = [(1, s.format(t)) for i, s in enumerate(SUITS) for t in TOPICS[i % 3::3]]
    made += [(1, s.format(a, b)) for s in SUITS_PAIR for a, b in PAIRS]
    made += [(1, s.format(e)) for s in SUITS_EVENT for e in EVENTS]
    made += [(0, s.format(w, t)) for i, s in enumerate(NOT_WHO) for j, w in enumerate(WHO)
             for t in [THINGS[(i + j) % len(THINGS)]]]
    made += [(0, s.format(t)) for i, s in enumerate(NOT_TOPIC) for t in TOPICS[i % 4::4]]
    made += [(0, s.format(c)) for s in NOT_COUNT for c in COUNTS]
    made += [(0, s.format(c, LANGUAGES[(i + j) % len(LANGUAGES)])) for i, s in enumerate(NOT_CODE)
             for j, c in enumerate(CODE)]
    made += [(0, s) for s in SUMS]
    return made


def read(path):
    with open(path, newline="", encoding="utf-8") as f:
        return [(int(r["outline_suits"]), r["question"]) for r in csv.DictReader(f)]


def features(question):
    """As parallel/outline/router.cpp makes them."""
    words = ["0" if w[0].isdigit() else w for w in re.findall(r"[a-z]+|[0-9]+", question.lower())][:64]
    made = set(words)
    made.update(f"{a} {b}" for a, b in zip(words, words[1:]))
    made.update("^" + " ".join(words[:n]) for n in (1, 2, 3) if len(words) >= n)
    return made


def train(examples, epochs=60, rate=0.1, decay=3e-4):
    weights, bias = {}, 0.0
    rows = [(y, sorted(features(q))) for y, q in examples]
    share = sum(y for y, _ in rows) / len(rows)
    order = list(range(len(rows)))
    seed = 1
    for epoch in range(epochs):
        for i in range(len(order) - 1, 0, -1):  # a fixed shuffle
            seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
            j = (seed >> 33) % (i + 1)
            order[i], order[j] = order[j], order[i]
        step = rate / (1 + epoch / 10)
        for i in order:
            y, names = rows[i]
            z = bias + sum(weights.get(f, 0.0) for f in names)
            error = (y - 1 / (1 + math.exp(-z))) * (0.5 / share if y else 0.5 / (1 - share))
            bias += step * error * 0.1
            for f in names:
                w = weights.get(f, 0.0)
                weights[f] = w + step * (error - decay * w)
    return weights, bias


def accuracy(weights, bias, examples):
    right = sum((bias + sum(weights.get(f, 0.0) for f in features(q)) > 0) == bool(y) for y, q in examples)
    return right / len(examples)


def main():
    wizard, vicuna = read(ROOT / "tests/data/router_wizardlm.csv"), read(ROOT / "tests/data/router_vicuna.csv")
    examples = wizard + own_questions()
    weights, bias = train(examples)
    kept = dict(sorted(weights.items(), key=lambda item: (-abs(item[1]), item[0]))[:KEPT])
    lines = [f'    {{"{name}", {kept[name]:.3f}f}},' for name in sorted(kept)]
    TARGET.write_text("\n".join([
        "// Written by jobs/train/train-router.py: features of a question and what they weigh; sorted.",
        '#include "parallel/outline/router.hpp"', "", "namespace jupiter {", "",
        f"const float kRouterBias = {bias:.3f}f;", "", f"const std::array<RouterWeight, kRouterFeatures> kRouterWeights = {{{{",
        *lines, "}};", "", "}  // namespace jupiter", ""]), encoding="utf-8")
    print(f"{len(examples)} questions, {sum(y for y, _ in examples)} of them suit; "
          f"accuracy on them {accuracy(kept, bias, examples):.3f}, on the test {accuracy(kept, bias, vicuna):.3f}")


if __name__ == "__main__":
    main()
