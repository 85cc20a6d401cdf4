// A small part of Markdown, as nodes of the document. Text only ever becomes text nodes, so nothing that a model or a
// user writes is read as HTML.
export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that do not come over HTTPS or from this machine have no clipboard.
  const field = element("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export function copyButton(text, name) {
  const button = element("button", { type: "button", className: "quiet small", textContent: "Copy" });
  button.setAttribute("aria-label", name);
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

// `code`, **bold** and *italic* within a line.
function inline(text) {
  const parts = [];
  const pattern = /(`+)(.+?)\1(?!`)|\*\*(\S(?:.*?\S)?)\*\*(?!\*)|\*(\S(?:[^*]*?[^*\s])?)\*(?![*\w])/gs;
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    const [whole, , code, bold, italic] = match;
    parts.push(text.slice(at, match.index));
    if (code !== undefined) parts.push(element("code", { textContent: code.trim() || code }));
    else if (bold !== undefined) parts.push(element("strong", {}, ...inline(bold)));
    else parts.push(element("em", {}, ...inline(italic)));
    at = match.index + whole.length;
  }
  parts.push(text.slice(at));
  return parts.filter((part) => part !== "");
}

function withLineBreaks(lines) {
  return lines.flatMap((line, i) => [...(i > 0 ? [element("br")] : []), ...inline(line)]);
}

function codeBlock(language, lines) {
  const text = lines.join("\n");
  const pre = element("pre", { tabIndex: 0 }, element("code", { textContent: text }));
  const head = element("div", { className: "code-head" }, element("span", { textContent: language || "text" }),
    copyButton(() => text, "Copy this code"));
  return element("div", { className: "code" }, head, pre);
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

// A list and those within it, by the depth of their items.
function list(items) {
  const ordered = /\d/.test(items[0].mark);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(items[0].mark, 10);
  for (let i = 0; i < items.length;) {
    const item = element("li", {}, ...withLineBreaks(items[i].lines));
    let end = i + 1;
    while (end < items.length && items[end].depth > items[0].depth) ++end;
    if (end > i + 1) item.append(list(items.slice(i + 1, end)));
    node.append(item);
    i = end;
  }
  return node;
}

// Reads the block that begins at lines[at]: its node and the line behind it.
function block(lines, at) {
  const line = lines[at];
  const fence = line.match(/^\s*(```+|~~~+)\s*([\w+#.-]*)/);
  if (fence) {
    let end = at + 1;
    while (end < lines.length && !lines[end].trim().startsWith(fence[1])) ++end;
    return [codeBlock(fence[2], lines.slice(at + 1, end)), end + 1];
  }
  const heading = line.match(/^(#{1,6})\s+(.*?)\s*#*$/);
  if (heading) return [element(heading[1].length < 3 ? "h3" : "h4", {}, ...inline(heading[2])), at + 1];
  if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) return [element("hr"), at + 1];
  let end = at;
  if (/^\s*>/.test(line)) {
    while (end < lines.length && /^\s*>/.test(lines[end])) ++end;
    const quoted = lines.slice(at, end).map((l) => l.replace(/^\s*> ?/, ""));
    return [element("blockquote", {}, ...blocks(quoted)), end];
  }
  if (ITEM.test(line)) {
    const items = [];
    for (; end < lines.length; ++end) {
      const match = lines[end].match(ITEM);
      if (match) items.push({ depth: match[1].length, mark: match[2], lines: [match[3]] });
      else if (/^\s+\S/.test(lines[end])) items.at(-1).lines.push(lines[end].trim());
      else if (lines[end].trim() !== "" || !ITEM.test(lines[end + 1] ?? "")) break;
    }
    return [list(items), end];
  }
  const begins = /^\s*(```|~~~|>|#{1,6}\s)/;
  for (++end; end < lines.length && lines[end].trim() !== "" && !begins.test(lines[end]) && !ITEM.test(lines[end]);) ++end;
  return [element("p", {}, ...withLineBreaks(lines.slice(at, end))), end];
}

function blocks(lines) {
  const nodes = [];
  for (let at = 0; at < lines.length;) {
    if (lines[at].trim() === "") {
      ++at;
      continue;
    }
    const [node, end] = block(lines, at);
    nodes.push(node);
    at = end;
  }
  return nodes;
}

export function markdown(text) {
  return blocks(text.split(/\r?\n/));
}
