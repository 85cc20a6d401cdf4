// One answer on its way: the request, its stream, and what it took.
import { streamChat } from "./api.js";

// Settings that the user left empty are the server's.
function requestOf(messages, settings, outline) {
  const turns = messages.map(({ role, content }) => ({ role, content }));
  if (settings.system) turns.unshift({ role: "system", content: settings.system });
  const body = { messages: turns, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "top_k", "seed", "max_tokens"]) {
    if (settings[name] !== undefined && settings[name] !== "") body[name] = Number(settings[name]);
  }
  if (outline) body.outline = true;
  return body;
}

// A point's text begins with its heading, which the page shows by itself.
export function pointBody(point, number) {
  const heading = `${number}. ${point.title}:`;
  return (point.text.startsWith(heading) ? point.text.slice(heading.length) : point.text).trim();
}

export class Answer {
  // message: grows as the answer comes. on: {grew, quiet}: called after each event, and when the server has nothing new.
  constructor(conversation, message, on) {
    this.conversation = conversation;
    this.message = message;
    this.on = on;
    this.controller = new AbortController();
  }

  stop() {
    this.controller.abort();
  }

  // Until the answer is whole or was stopped; throws ApiError.
  async run(settings, outline) {
    const history = this.conversation.messages.slice(0, this.conversation.messages.indexOf(this.message));
    const begun = performance.now();
    let first = 0, last = 0, usage = null;
    try {
      for await (const event of streamChat(requestOf(history, settings, outline), settings.key, this.controller.signal)) {
        if (event === null) {
          this.on.quiet();
          continue;
        }
        usage = event.usage ?? usage;
        const delta = event.choices[0]?.delta;
        if (!delta?.content) continue;
        last = performance.now();
        first ||= last;
        this.take(delta);
        this.on.grew();
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      this.message.stopped = true;
    } finally {
      if (first) this.message.stats = statsOf(usage, (first - begun) / 1000, (last - first) / 1000, this.message.stopped);
    }
  }

  take(delta) {
    const { message } = this;
    if (!delta.outline) {
      message.content += delta.content;
      return;
    }
    message.points ??= [];
    const point = (message.points[delta.outline.point - 1] ??= { title: delta.outline.title, text: "" });
    point.text += delta.content;
    message.content = message.points.map((p) => p.text).join("");
  }
}

function statsOf(usage, firstS, restS, stopped) {
  const parts = [];
  if (usage && restS > 0) parts.push(`${((usage.completion_tokens - 1) / restS).toFixed(1)} tokens/s`);
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  parts.push(`first after ${firstS < 10 ? firstS.toFixed(2) : firstS.toFixed(0)} s`);
  if (stopped) parts.push("stopped");
  return parts.join(", ");
}
