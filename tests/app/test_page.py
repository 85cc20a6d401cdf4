"""The web page in Chromium: answers that grow, conversations that stay, texts that stay texts, and a board that is lost
while it streams."""
import gzip
import json
import os
import signal
import socket
import time
import unittest

import browser
from browser import KEYS, Browser
from program import REAL_MODEL, ProgramTest
from test_serve import Server

QUESTION = "Write a long story about a small boat on a wide river."
STORED = "return JSON.parse(localStorage.getItem('jupiter.conversations') ?? '[]')"
IDLE = "return document.querySelector('#send').textContent === 'Send'"
ANSWER = "return document.querySelector('article:last-child .body')?.textContent ?? ''"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script> & \u2028 \u202e `<b>` **<i>x</i>** \U0001f6a3"


class Files(ProgramTest):
    """What the server sends for the page, without a browser."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.tiny, "--api-key", "secret", ranks=1).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        super().tearDownClass()

    def test_files_come_compressed_and_plain(self):
        for path, kind in (("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/page.css", "text/css"),
                           ("/page/icon.svg", "image/svg+xml")):
            status, plain, headers = self.server.get(path)
            self.assertEqual((status, headers["Content-Type"].split(";")[0]), (200, kind))
            self.assertNotIn("Content-Encoding", headers)
            _, packed, headers = self.server.get(path, **{"Accept-Encoding": "br, gzip;q=0.5"})
            self.assertEqual(headers["Content-Encoding"], "gzip")
            self.assertEqual(gzip.decompress(packed), plain)
            _, refused, headers = self.server.get(path, **{"Accept-Encoding": "gzip;q=0"})
            self.assertEqual(refused, plain)
            status, nothing, _ = self.server.get(path, **{"If-None-Match": headers["ETag"]})
            self.assertEqual((status, nothing), (304, b""))

    def test_nothing_foreign_can_run_in_it(self):
        headers = self.server.get("/")[2]
        policy = headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
            self.assertIn(rule, policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual((headers["X-Content-Type-Options"], headers["Referrer-Policy"]), ("nosniff", "no-referrer"))

    def test_it_can_be_left_out(self):
        with Server(self.tiny, "--no-page", ranks=1) as server:
            self.assertEqual([server.get(path)[0] for path in ("/", "/page/main.js", "/health")], [404, 404, 200])


class PageTest(unittest.TestCase):
    """A server of the real model, and a browser at its page. After each test nothing is wrong in the browser's console,
    and no other host was asked."""
    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        if reason := browser.missing():
            raise unittest.SkipTest(reason)
        if not REAL_MODEL.exists():
            raise unittest.SkipTest("models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
        cls.server = Server(REAL_MODEL, "-c", 2048, *cls.OPTIONS, ranks=3).__enter__()
        cls.addClassCleanup(cls.server.__exit__)
        cls.url = f"http://127.0.0.1:{cls.server.port}/"
        cls.page = Browser()
        cls.addClassCleanup(cls.page.__exit__)

    def setUp(self):
        self.page.size(1280, 800)
        self.page.open(self.url)
        self.page.run("window.onpagehide = null; localStorage.clear()")
        self.reload_without(lambda: self.page.run("localStorage.clear()"))
        self.page.problems()

    def reload_without(self, change):
        """The page stores its conversations when it is left: what a test stores must come after that."""
        self.page.open(self.url + "page/icon.svg")
        change()
        self.page.open(self.url)

    def tearDown(self):
        self.assertEqual(self.page.problems(), [])
        for address in self.page.requests():
            self.assertTrue(address.startswith((self.url, "data:", "blob:")), address)

    def ask(self, text):
        self.page.type("#question", text, KEYS["enter"])

    def settings(self, **values):
        self.page.click("#open-settings")
        for name, value in values.items():
            self.page.type(f"#settings [name={name}]", str(value))
        self.page.click("#settings [value=save]")

    def stored(self):
        return self.page.run(STORED)

    def wait_for_growth(self, length=40):
        return self.page.wait(f"const t = (() => {{ {ANSWER} }})(); return t.length > arguments[0] && t", length)


class Page(PageTest):
    def test_an_answer_grows_and_a_conversation_stays(self):
        self.settings(max_tokens=80)
        self.ask(QUESTION)
        part = self.wait_for_growth()
        self.assertEqual(self.page.text("#send"), "Stop")
        self.page.wait(IDLE)
        whole = self.page.run(ANSWER)
        self.assertGreater(len(whole), len(part))
        self.assertRegex(self.page.text(".stats"), r"^[\d.]+ tokens/s, 80 tokens, first after [\d.]+ s$")
        self.ask("And then?")
        self.page.wait("return document.querySelectorAll('article').length === 4")
        self.page.wait(IDLE)
        second = self.page.run(ANSWER)
        turns = [*self.stored()[0]["messages"][:2], {"role": "user", "content": "And then?"}]
        turns = [{k: m[k] for k in ("role", "content")} for m in turns]
        alone = self.server.post("/v1/chat/completions", {"messages": turns, "max_tokens": 80})[1]
        self.assertEqual(self.stored()[0]["messages"][3]["content"], alone["choices"][0]["message"]["content"])
        self.page.reload()
        self.assertEqual(self.page.wait(ANSWER), second)
        self.assertEqual(self.page.run("return document.querySelectorAll('article').length"), 4)

    def test_an_answer_is_stopped(self):
        for stop in (lambda: self.page.click("#send"), lambda: self.page.key("escape")):
            self.ask(QUESTION)
            self.wait_for_growth()
            stop()
            self.page.wait(IDLE, limit=5)
            self.assertIn("stopped", self.page.text("article:last-child .stats"))
            end = time.monotonic() + 10
            while self.server.metric("requests_open") > 0:
                self.assertLess(time.monotonic(), end)

    def test_questions_are_changed_and_answers_made_again(self):
        self.settings(max_tokens=12)
        self.ask("Name a fruit.")
        self.page.wait(IDLE)
        first = self.page.run(ANSWER)
        self.page.click("article:last-child [aria-label='Ask for this answer again']")
        self.page.wait(f"return document.querySelectorAll('article').length === 2 && (() => {{ {IDLE} }})()")
        self.assertEqual(self.page.run(ANSWER), first, "greedy decoding")
        self.page.click("article [aria-label='Edit this question']")
        self.page.run("document.querySelector('#question').value = ''")
        self.ask("Name a country.")
        self.page.wait(IDLE)
        self.assertEqual([m["role"] for m in self.stored()[0]["messages"]], ["user", "assistant"])
        self.assertNotEqual(self.page.run(ANSWER), first)

    def test_conversations_are_listed_and_deleted(self):
        self.settings(max_tokens=4)
        for question in ("One fruit?", "One country?"):
            self.page.click("#new")
            self.ask(question)
            self.page.wait(IDLE)
        titles = "return [...document.querySelectorAll('#conversation-list .title')].map((t) => t.textContent)"
        self.assertEqual(self.page.run(titles), ["One country?", "One fruit?"])
        self.page.click("[aria-label='Open: One fruit?']")
        self.assertIn("One fruit?", self.page.text("#log"))
        self.page.click("[aria-label='Delete: One fruit?']")
        self.page.accept()
        self.assertEqual(self.page.run(titles), ["One country?"])
        self.assertEqual(len(self.stored()), 1)

    def test_texts_stay_texts(self):
        messages = [{"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL + "\n\n```html\n" + EVIL + "\n```"},
                    {"role": "assistant", "content": EVIL, "points": [{"title": EVIL, "text": EVIL}]}]
        stored = json.dumps([{"id": "1", "title": EVIL, "messages": messages}])
        self.reload_without(lambda: self.page.run("localStorage.setItem('jupiter.conversations', arguments[0])", stored))
        self.assertEqual(self.page.wait("return document.querySelectorAll('article').length"), 3)
        self.assertEqual(self.page.run("return document.querySelectorAll('main img, main script, nav img, main b, main i').length"), 0)
        self.assertEqual(self.page.text("article.user .body"), EVIL)
        self.assertEqual(self.page.text("article .code pre"), EVIL)
        self.assertIn("<script>alert(2)</script>", self.page.text("article:nth-child(2) p"))
        self.assertEqual(self.page.text("article:nth-child(2) strong"), "<i>x</i>")

    def test_markdown(self):
        text = "# Title\nA `code` and **bold *both***.\n\n1. one\n   - inner\n2. two\n\n> said\n\n---\n```py\nx = [1]\n```\n2 * 3 * 4 _a_"
        tree = self.page.run("""return import('/page/markdown.js').then(({ markdown }) =>
            markdown(arguments[0]).map((node) => node.outerHTML))""", text)
        self.assertEqual(tree[:5], ["<h3>Title</h3>", "<p>A <code>code</code> and <strong>bold <em>both</em></strong>.</p>",
                                    '<ol start="1"><li>one<ul><li>inner</li></ul></li><li>two</li></ol>',
                                    "<blockquote><p>said</p></blockquote>", "<hr>"])
        self.assertIn("<code>x = [1]</code>", tree[5])
        self.assertEqual(tree[6], "<p>2 * 3 * 4 _a_</p>")

    def test_colours_follow_the_system_and_the_switch(self):
        ground = "return getComputedStyle(document.body).backgroundColor"
        self.page.prefer("dark")
        dark = self.page.run(ground)
        self.page.prefer("light")
        light = self.page.run(ground)
        self.assertNotEqual(light, dark)
        self.page.click("#theme")  # light
        self.page.prefer("dark")
        self.assertEqual(self.page.run(ground), light)
        self.page.click("#theme")  # dark
        self.page.prefer("light")
        self.assertEqual(self.page.run(ground), dark)
        self.page.reload()
        self.assertEqual(self.page.run(ground), dark)

    def test_a_phone_shows_it_without_scrolling_sideways(self):
        self.settings(max_tokens=60)
        self.page.size(360, 740, mobile=True)
        self.ask("Show a shell command with a very long line, and " + "x" * 200)
        self.page.wait(IDLE)
        for button in ("#show-cluster", "#show-cluster", "#show-conversations", "#show-conversations", "#open-settings"):
            self.page.click(button)
            self.assertLessEqual(self.page.run("return document.documentElement.scrollWidth"), 360, button)

    def test_names_and_focus(self):
        """Everything that takes the focus has a name, and the first stop leads past everything to the question."""
        nameless = self.page.run("""return [...document.querySelectorAll('button, input, textarea, a')].filter((e) =>
            !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.outerHTML)""")
        self.assertEqual(nameless, [])
        self.assertEqual(self.page.run("return document.querySelector('a').hash"), "#question")
        self.assertEqual(self.page.run("return document.activeElement.id"), "question")

    def test_an_answer_goes_on_when_a_rank_is_killed(self):
        self.settings(max_tokens=200)
        whole = self.server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}],
                                                          "max_tokens": 200})[1]["choices"][0]["message"]["content"]
        self.ask(QUESTION)
        self.wait_for_growth()
        starts = self.server.metric("rank_starts_total")
        os.kill(self.server.rank_processes()[1], signal.SIGKILL)
        self.page.wait("return document.querySelector('#notice').textContent.startsWith('Pausing: a board is gone')")
        self.assertTrue(self.page.run("return document.querySelector('#cluster').classList.contains('is-gone')"))
        self.page.wait(IDLE, limit=120)
        self.assertEqual(self.stored()[0]["messages"][1]["content"], whole)
        self.assertGreater(self.server.metric("rank_starts_total"), starts)
        self.assertTrue(self.page.run("return document.querySelector('#notice').hidden"))

    def test_points_of_an_outline_grow_side_by_side(self):
        self.page.click("#outline")
        self.ask("How can a town save water?")
        self.page.wait("return document.querySelectorAll('.writing .point').length > 1")
        self.page.wait(IDLE)
        body = {"messages": [{"role": "user", "content": "How can a town save water?"}], "outline": True}
        whole = self.server.post("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]
        message = self.stored()[0]["messages"][1]
        self.assertEqual(message["content"], whole)
        self.assertEqual(self.page.run("return document.querySelectorAll('.point h3').length"), len(message["points"]))
        self.assertEqual(self.page.text(".point h3"), "1" + message["points"][0]["title"])
        tops = self.page.run("return [...document.querySelectorAll('.point')].slice(0, 2).map((p) => p.offsetTop)")
        self.assertEqual(tops[0], tops[1])

    def test_the_cluster_is_seen(self):
        self.ask(QUESTION)
        self.page.wait("return [...document.querySelectorAll('.share')].some((s) => parseInt(s.textContent) > 0)")
        self.assertEqual(self.page.run("return document.querySelectorAll('#ranks li').length"), 3)
        self.assertRegex(self.page.text("#ranks .what"), r"^rank 0, layers 0 to \d+$")
        with socket.socket(socket.AF_UNIX) as starter:
            starter.connect(str(self.server.socket_folder() / "ranks"))
            boards = [{"host": "a", "state": "used"}, {"host": "b", "state": "lost"}]
            starter.sendall(json.dumps({"type": "boards", "boards": boards}).encode() + b"\n")
            self.page.wait("return document.querySelector('.state.lost')?.textContent === 'lost'")
        self.page.key("escape")
        self.page.wait(IDLE)


class Key(PageTest):
    OPTIONS = ("--api-key", "secret")

    def tearDown(self):
        self.page.problems()  # the console shows every 401
        super().tearDown()

    def test_the_page_asks_for_the_key(self):
        self.page.wait("return document.querySelector('#settings').open")
        self.assertIn("API key", self.page.text("#settings-message"))
        self.page.type("#settings [name=key]", "secret")
        self.page.click("#settings [value=save]")
        self.page.wait("return document.querySelector('#model').textContent === 'smollm2-135m'")
        self.ask("Name a fruit.")
        self.page.wait(IDLE)
        self.assertTrue(self.page.run(ANSWER), self.page.text("#notice"))


if __name__ == "__main__":
    unittest.main()
