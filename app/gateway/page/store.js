// What the browser keeps: conversations and settings. Nothing of it leaves the browser except with a question.
const CONVERSATIONS = "jupiter.conversations";
const SETTINGS = "jupiter.settings";

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

// False where the browser has no room for it, or does not keep anything.
function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

// A conversation: {id, title, messages}. A message: {role, content, stats, points: [{title, text}] of an outline}.
export class Store {
  conversations = read(CONVERSATIONS, []);
  settings = read(SETTINGS, {});

  create() {
    const conversation = { id: `${Date.now()}-${Math.random().toString(36).slice(2)}`, title: "", messages: [] };
    this.conversations.unshift(conversation);
    return conversation;
  }
  remove(conversation) {
    this.conversations = this.conversations.filter((c) => c !== conversation);
    return this.save();
  }
  save() {
    return write(CONVERSATIONS, this.conversations.filter((c) => c.messages.length > 0));
  }
  saveSettings(settings) {
    this.settings = settings;
    return write(SETTINGS, settings);
  }
}

export function titleOf(conversation) {
  return conversation.title || conversation.messages[0]?.content.replace(/\s+/g, " ").slice(0, 60) || "New conversation";
}

export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
