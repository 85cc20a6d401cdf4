// The server's API as this page uses it.
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, key, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // a proxy's page, perhaps
  }
  throw new ApiError(response.status, message || `The server answered with ${response.status}.`);
}

export async function getJson(path, key) {
  return (await request(path, key)).json();
}

// Server-sent events as objects; null stands for a comment, which says that the server lives but has nothing to tell.
export async function* streamChat(body, key, signal) {
  const response = await request("/v1/chat/completions", key, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ApiError(0, "The connection to the server broke off.");
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return;
      if (!event.startsWith("data: ")) {
        yield null;
        continue;
      }
      const object = JSON.parse(event.slice(6));
      if (object.error) throw new ApiError(object.error.code, object.error.message);
      yield object;
    }
  }
}
