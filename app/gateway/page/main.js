// The page: conversations on the left, messages in the middle, the cluster on the right.
import { getJson } from "./api.js";
import { Answer, pointBody } from "./chat.js";
import { Cluster } from "./cluster.js";
import { copyButton, element, markdown } from "./markdown.js";
import { Store, download, titleOf } from "./store.js";

const byId = (id) => document.getElementById(id);
const store = new Store();
let current = store.conversations[0] ?? store.create();
let running = null;  // the Answer that is on its way
let edited = -1;     // index of the user's message that is being changed

function say(text) {
  byId("spoken").textContent = text;
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
  if (text) say(text);
}

function button(text, name, action) {
  const node = element("button", { type: "button", className: "quiet small", textContent: text });
  node.setAttribute("aria-label", name);
  node.addEventListener("click", action);
  return node;
}

// Conversations

function showConversations() {
  byId("conversation-list").replaceChildren(...store.conversations.map((conversation) => {
    const title = titleOf(conversation);
    const open = button(title, `Open: ${title}`, () => openConversation(conversation));
    open.className = "title";
    if (conversation === current) open.setAttribute("aria-current", "true");
    const actions = element("div", { className: "actions" },
      button("Rename", `Rename: ${title}`, () => rename(conversation)),
      button("Export", `Export: ${title}`, () => download("conversation.json", JSON.stringify(conversation, null, 1))),
      button("Delete", `Delete: ${title}`, () => remove(conversation)));
    return element("li", { className: conversation === current ? "open" : "" }, open, actions);
  }));
}

function openConversation(conversation) {
  current = conversation;
  cancelEdit();
  setDrawer("conversations", false);
  notice("");
  showConversations();
  showMessages();
  byId("question").focus();
}

function rename(conversation) {
  const title = prompt("Name of the conversation", titleOf(conversation));
  if (title === null) return;
  conversation.title = title.trim();
  store.save();
  showConversations();
}

function remove(conversation) {
  if (!confirm(`Delete "${titleOf(conversation)}"?`)) return;
  if (running?.conversation === conversation) running.stop();
  store.remove(conversation);
  if (conversation === current) openConversation(store.conversations[0] ?? store.create());
  else showConversations();
}

// Messages

function bodyOf(message) {
  const body = element("div", { className: "body" });
  if (message.role === "user") body.textContent = message.content;
  else if (message.points) body.append(pointsOf(message));
  else body.append(...markdown(message.content));
  return body;
}

function pointsOf(message) {
  return element("div", { className: "points" }, ...message.points.map((point, i) => {
    const heading = element("h3", {}, element("span", { textContent: i + 1 }), point.title);
    return element("section", { className: "point" }, heading, ...markdown(pointBody(point, i + 1)));
  }));
}

function footOf(message, i) {
  const foot = element("div", { className: "foot" });
  const isLast = i >= current.messages.length - 2;
  if (message.stats) foot.append(element("span", { className: "stats", textContent: message.stats }));
  if (running?.message === message) return foot;
  if (message.content) foot.append(copyButton(() => message.content, "Copy this message"));
  if (isLast && !running && message.role === "user") foot.append(button("Edit", "Edit this question", () => edit(i)));
  if (isLast && !running && message.role === "assistant") {
    foot.append(button("Regenerate", "Ask for this answer again", () => answer(i)));
  }
  return foot;
}

function articleOf(message, i) {
  const node = element("article", { className: message.role }, bodyOf(message), footOf(message, i));
  node.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  node.classList.toggle("writing", running?.message === message);
  return node;
}

function showMessages() {
  const log = byId("log");
  if (current.messages.length === 0) {
    log.replaceChildren(element("div", { className: "empty" }, element("h2", { textContent: "Ask your boards" }),
      element("p", { textContent: "The answer is the same on any number of them." })));
    return;
  }
  log.replaceChildren(...current.messages.map(articleOf));
  log.scrollTop = log.scrollHeight;
}

// Only the message that grows is made anew, once a picture of the screen.
let drawing = false;
function drawRunning() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const i = running ? current.messages.indexOf(running.message) : -1;
    const article = byId("log").children[i];
    if (!article) return;
    const log = byId("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    article.replaceChild(bodyOf(running.message), article.firstChild);
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
}

// Asking

function updateAsk() {
  byId("send").textContent = running ? "Stop" : edited >= 0 ? "Ask again" : "Send";
  byId("hint").textContent = running ? "Esc stops" : edited >= 0 ? "Esc keeps the question as it was"
    : "Enter sends, Shift+Enter begins a new line";
}

function fitQuestion() {
  const field = byId("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function edit(i) {
  edited = i;
  byId("question").value = current.messages[i].content;
  fitQuestion();
  updateAsk();
  byId("question").focus();
}

function cancelEdit() {
  if (edited >= 0) byId("question").value = "";
  edited = -1;
  fitQuestion();
  updateAsk();
}

function ask() {
  if (running) return running.stop();
  const text = byId("question").value;
  if (!text.trim()) return;
  if (edited >= 0) current.messages.length = edited;
  edited = -1;
  current.messages.push({ role: "user", content: text });
  byId("question").value = "";
  fitQuestion();
  answer(current.messages.length);
}

// What a stream that pauses means.
function showPause() {
  if (!running) return;
  if (!cluster.isGone) return;
  notice("Pausing: a board is gone. The answer goes on where it is as soon as the others have started again.");
}

// Makes message i, and forgets what followed it.
async function answer(i) {
  if (running) return;
  notice("");
  current.messages.length = i;
  const message = { role: "assistant", content: "" };
  current.messages.push(message);
  const conversation = current;
  running = new Answer(conversation, message, {
    grew: () => {
      if (!byId("notice").hidden) notice("");
      drawRunning();
    },
    quiet: showPause,
  });
  updateAsk();
  showConversations();
  showMessages();
  cluster.look();
  say("The answer begins.");
  try {
    await running.run(store.settings, byId("outline").checked);
    say(message.stopped ? "Stopped." : "The answer is complete.");
    notice("");
  } catch (error) {
    if (error.status === 401) openSettings("The server asks for an API key.", "key");
    else notice(error.message);
  }
  if (!message.content) conversation.messages.pop();
  running = null;
  if (!store.save()) notice("This browser has no room for more conversations: delete some.");
  updateAsk();
  showConversations();
  if (conversation === current) showMessages();
}

// Settings, colours and drawers

function openSettings(message, focus) {
  const dialog = byId("settings");
  const fields = dialog.querySelector("form").elements;
  for (const field of fields) if (field.name) field.value = store.settings[field.name] ?? "";
  byId("settings-message").textContent = message ?? "";
  byId("settings-message").hidden = !message;
  if (!dialog.open) dialog.showModal();
  if (focus) fields[focus].focus();
}

function closeSettings() {
  const dialog = byId("settings");
  // Chromium gives the focus back to a field that then takes no text, where the dialog opened with the page.
  byId("question").blur();
  byId("question").focus();
  if (dialog.returnValue !== "save") return;
  const settings = { theme: store.settings.theme };
  for (const field of dialog.querySelector("form").elements) if (field.name && field.value) settings[field.name] = field.value;
  store.saveSettings(settings);
  readServer();
  cluster.look();
}

const THEMES = ["auto", "light", "dark"];
function showTheme() {
  const theme = store.settings.theme ?? "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme-name").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
}

function nextTheme() {
  const at = THEMES.indexOf(store.settings.theme ?? "auto");
  store.saveSettings({ ...store.settings, theme: THEMES[(at + 1) % THEMES.length] });
  showTheme();
}

const isNarrow = () => matchMedia("(max-width: 62rem)").matches;
function setDrawer(name, open) {
  document.body.classList.toggle(`${name}-open`, open);
  byId(`show-${name}`).setAttribute("aria-expanded", String(open));
}

function toggleCluster() {
  if (!isNarrow()) {
    const hidden = document.body.classList.toggle("without-cluster");
    byId("show-cluster").setAttribute("aria-expanded", String(!hidden));
    return;
  }
  setDrawer("conversations", false);
  setDrawer("cluster", !document.body.classList.contains("cluster-open"));
}

async function readServer() {
  try {
    const props = await getJson("/props", store.settings.key);
    byId("model").textContent = props.model;
    const defaults = props.default_generation_settings.params;
    for (const name of ["temperature", "top_p", "top_k"]) {
      byId("settings").querySelector(`[name=${name}]`).placeholder = String(Number(defaults[name].toPrecision(6)));
    }
  } catch (error) {
    if (error.status === 401) openSettings("The server asks for an API key.", "key");
  }
}

function onKey(event) {
  if (event.key === "Escape" && !byId("settings").open) {
    if (running) running.stop();
    else if (edited >= 0) cancelEdit();
    for (const name of isNarrow() ? ["conversations", "cluster"] : []) setDrawer(name, false);
  }
  if (event.target === byId("question") && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) ask();
  }
}

const cluster = new Cluster(() => store.settings.key, () => running !== null, showPause);
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("question").addEventListener("input", fitQuestion);
byId("new").addEventListener("click", () => {
  openConversation(store.conversations.find((c) => c.messages.length === 0) ?? store.create());
});
byId("theme").addEventListener("click", nextTheme);
byId("open-settings").addEventListener("click", () => openSettings());
byId("settings").addEventListener("close", closeSettings);
byId("show-cluster").addEventListener("click", toggleCluster);
byId("show-conversations").addEventListener("click", () => {
  setDrawer("cluster", false);
  setDrawer("conversations", !document.body.classList.contains("conversations-open"));
});
document.addEventListener("keydown", onKey);
window.addEventListener("pagehide", () => store.save());

if (isNarrow()) setDrawer("cluster", false);
showTheme();
showConversations();
showMessages();
updateAsk();
readServer();
byId("question").focus();
