// The cluster as it is now: asked once a second while somebody looks, and more often while an answer is on its way.
import { getJson } from "./api.js";
import { element } from "./markdown.js";

const EVERY_MS = { idle: 1000, busy: 250 };
const HISTORY = 60;  // statuses that a rank's line shows, one a second
const LINE_HEIGHT = 20;

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(share * 100)} %`;

export class Cluster {
  // key: returns the API key. isBusy: whether an answer is on its way. changed: called when the ranks go or come back.
  constructor(key, isBusy, changed) {
    this.key = key;
    this.isBusy = isBusy;
    this.changed = changed;
    this.state = "";  // ready, working, loading, gone or unreachable
    this.ranks = [];  // the newest that were told: they stay when the ranks are gone
    this.history = [];
    this.lastMs = 0;  // when a point was added to the lines
    this.look();
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  get isGone() {
    return this.state === "gone" || this.state === "loading" || this.state === "unreachable";
  }

  async look() {
    clearTimeout(this.timer);
    let slots = null;
    try {
      slots = await getJson("/slots", this.key());
    } catch (error) {
      if (error.status === 401) this.setState("locked");
      else this.setState("unreachable");
    }
    if (slots) this.show(slots);
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.look(), EVERY_MS[this.isBusy() ? "busy" : "idle"]);
  }

  show(slots) {
    const now = slots.now ?? {};
    if (now.ranks) this.takeRanks(now.ranks, slots.loaded);
    this.setState(!slots.loaded ? (slots.connected || slots.starts === 0 ? "loading" : "gone")
      : slots.open > 0 ? "working" : "ready");
    this.showBoards(slots.boards);
    this.showFigures(slots, now);
  }

  setState(state) {
    const texts = {
      ready: "Ready.", working: "Computing.", loading: "The boards load the model.",
      gone: "A board is gone. The others start again, and answers go on.",
      unreachable: "The server cannot be reached.", locked: "The server asks for an API key.",
    };
    const before = this.state;
    this.state = state;
    if (before === state) return;
    byId("cluster-state").textContent = texts[state];
    byId("cluster-state").classList.toggle("gone", this.isGone);
    byId("cluster").classList.toggle("is-gone", this.isGone);
    byId("cluster-dot").className = `dot ${this.isGone ? "gone" : state}`;
    this.changed();
  }

  takeRanks(ranks, loaded) {
    const atMs = performance.now();
    const isLater = atMs - this.lastMs > EVERY_MS.idle - EVERY_MS.busy;
    if (isLater) this.lastMs = atMs;
    const shape = (list) => JSON.stringify(list.map((r) => [r.rank, r.host, r.first_layer, r.last_layer]));
    const isNew = shape(ranks) !== shape(this.ranks);
    this.ranks = ranks;
    if (isNew) {
      this.history = ranks.map(() => []);
      this.build();
    }
    ranks.forEach((rank, i) => this.showRank(rank, i, loaded ? rank.busy : 0, isLater));
  }

  build() {
    byId("layers").replaceChildren(...this.ranks.map((rank) => {
      const part = element("div");
      part.style.flexGrow = rank.last_layer - rank.first_layer;
      return part;
    }));
    byId("ranks").replaceChildren(...this.ranks.map((rank) => {
      const count = rank.last_layer - rank.first_layer;
      const what = count === 0 ? "holds no layers" : count === 1 ? `layer ${rank.first_layer}`
        : `layers ${rank.first_layer} to ${rank.last_layer - 1}`;
      const bar = element("div", { className: "bar" }, element("div"));
      bar.setAttribute("role", "meter");
      bar.setAttribute("aria-valuemin", "0");
      bar.setAttribute("aria-valuemax", "100");
      bar.setAttribute("aria-label", `Rank ${rank.rank} on ${rank.host}: share of the time in which it computes`);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      line.setAttribute("viewBox", `0 0 ${HISTORY - 1} ${LINE_HEIGHT}`);
      line.setAttribute("preserveAspectRatio", "none");
      line.setAttribute("aria-hidden", "true");
      line.append(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
      return element("li", {}, element("span", { className: "host", textContent: rank.host, title: rank.host }),
        element("span", { className: "share" }), bar,
        element("span", { className: "what", textContent: `rank ${rank.rank}, ${what}` }), line);
    }));
  }

  showRank(rank, i, busy, isLater) {
    const item = byId("ranks").children[i];
    item.querySelector(".share").textContent = percent(busy);
    item.querySelector(".bar div").style.width = `${busy * 100}%`;
    item.querySelector(".bar").setAttribute("aria-valuenow", Math.round(busy * 100));
    byId("layers").children[i].style.setProperty("--busy", busy);
    if (!isLater) return;
    const history = this.history[i];
    history.push(busy);
    if (history.length > HISTORY) history.shift();
    const first = HISTORY - history.length;
    const points = history.map((share, n) => `${first + n},${(LINE_HEIGHT - 1) - share * (LINE_HEIGHT - 2)}`);
    item.querySelector("polyline").setAttribute("points", points.join(" "));
  }

  showBoards(boards) {
    byId("boards").hidden = !boards;
    byId("board-list").replaceChildren(...(boards ?? []).map((board) => element("li", {},
      element("span", { textContent: board.host }),
      element("span", { className: `state ${/^\w+$/.test(board.state) ? board.state : ""}`, textContent: board.state }))));
  }

  showFigures(slots, now) {
    const figures = {
      "Answers under way": slots.open, "Waiting for room": now.waiting ?? 0, "Frames on their way": now.frames_in_flight ?? 0,
      "Restarts after a failure": Math.max(slots.starts - 1, 0),
    };
    byId("figures").replaceChildren(...Object.entries(figures).flatMap(([name, value]) =>
      [element("dt", { textContent: name }), element("dd", { textContent: String(value) })]));
  }
}
