"use strict";

const byId = (id) => document.getElementById(id);
let picture = null;
let tasks = new Set();

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").className = bad ? "bad" : "";
}

async function call(method, path, body) {
  const headers = {};
  if (byId("key").value) headers["x-api-key"] = byId("key").value;
  if (body !== undefined) headers["content-type"] = "application/json";
  const started = performance.now();
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error ? content.error.message : `status ${answer.status}`);
  const forward = answer.headers.get("x-forward-ms");
  say(`${Math.round(performance.now() - started)} ms` + (forward ? `, ${Number(forward).toFixed(1)} ms of it in the model` : ""));
  return content;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the picture cannot be read"));
    reader.readAsDataURL(file);
  });
}

async function choose(file) {
  if (!file) return;
  picture = await base64(file);
  byId("preview").src = picture;
  byId("preview").hidden = false;
  say(file.name || "pasted picture");
}

function needPicture() {
  if (!picture) throw new Error("choose a picture first");
  return picture;
}

function show(list, rows) {
  list.replaceChildren(...rows.map(({ text, score }) => {
    const item = document.createElement("li");
    const bar = document.createElement("meter");
    const number = document.createElement("small");
    bar.value = Math.max(0, score);
    number.textContent = score.toFixed(3);
    item.append(text, bar, number);
    return item;
  }));
  if (!rows.length) list.textContent = "nothing found";
}

function onSubmit(id, work) {
  byId(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      await work(new FormData(event.target));
    } catch (error) {
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  });
}

onSubmit("ask", async (form) => {
  const found = await call("POST", "/vqa", { image: needPicture(), question: form.get("question") });
  show(byId("ask-answers"), found.answers.map((one) => ({ text: one.answer, score: one.score })));
});

onSubmit("classify", async (form) => {
  const labels = form.get("labels").split(",").map((label) => label.trim()).filter(Boolean);
  const body = { image: needPicture() };
  if (labels.length) body.labels = labels;
  const found = await call("POST", "/classify", body);
  show(byId("classify-answers"), found.labels.map((one) => ({ text: one.label, score: one.score })));
});

let routes = null;

// the experts of a pool lie evenly around the circle of hues; pictures begin at red, texts half a step later
const colour = (pool, expert, count) => `hsl(${Math.round((360 * (expert + (pool === "T" ? 0.5 : 0))) / count)} 85% 60%)`;
const NONE = "#888";

function taskFor(question) {
  const known = (task) => tasks.has(task);
  if (question && known("vqa")) return "vqa";
  const found = ["classify", "embed"].find(known);
  if (!found) throw new Error("ask a question: no model takes the picture alone");
  return found;
}

function inSvg(name, attributes, text = "") {
  const made = document.createElementNS(byId("patches").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) {
    const title = inSvg("title", {});
    title.textContent = text;
    made.append(title);
  }
  return made;
}

function told(token, word) {
  const chosen = token.experts.map((expert, i) => `${token.pool}${expert} (${token.gates[i].toFixed(2)})`);
  return `${word}: ${chosen.join(", ") || "no expert had room"}`;
}

function drawRoutes() {
  const layer = routes.layers[byId("layer").selectedIndex];
  const of = (token) => (token.experts.length ? colour(token.pool, token.experts[0], token.pool === "VL" ? 1 : layer.num_experts) : NONE);
  const grid = routes.patch_grid;
  byId("patches").replaceChildren();
  const isPatch = (i) => grid && i >= grid.start && i < grid.start + grid.rows * grid.columns;
  if (grid) {
    const [width, height] = [300 / grid.columns, 300 / grid.rows];
    byId("patches").append(inSvg("image", { href: routes.picture, width: 300, height: 300, preserveAspectRatio: "none" }));
    for (let i = 0; i < grid.rows * grid.columns; i += 1) {
      const token = layer.tokens[grid.start + i];
      const [row, column] = [Math.floor(i / grid.columns), i % grid.columns];
      byId("patches").append(inSvg("rect", {
        x: column * width, y: row * height, width, height, fill: of(token), "data-expert": token.experts[0] ?? "none",
      }, told(token, `row ${row + 1}, column ${column + 1}`)));
    }
  }
  byId("words").replaceChildren(...routes.tokens.flatMap((word, i) => {
    if (isPatch(i)) return [];
    const span = document.createElement("span");
    span.textContent = word;
    span.title = told(layer.tokens[i], word);
    span.style.backgroundColor = of(layer.tokens[i]);
    return [span];
  }));
  const counts = new Map();
  for (const token of layer.tokens) {
    const name = token.experts.length ? `${token.pool}${token.experts[0]}` : "none";
    counts.set(name, { colour: of(token), number: (counts.get(name) || { number: 0 }).number + 1 });
  }
  byId("experts").replaceChildren(...[...counts].sort().map(([name, one]) => {
    const item = document.createElement("li");
    const mark = document.createElement("span");
    mark.style.backgroundColor = one.colour;
    item.append(mark, `${name}: ${one.number}`);
    return item;
  }));
}

onSubmit("explain", async (form) => {
  const task = taskFor(form.get("question"));
  const body = { task, image: needPicture(), ...(task === "vqa" ? { question: form.get("question") } : {}) };
  routes = { ...(await call("POST", "/explain/routing", body)), picture: body.image };
  if (!routes.layers.length) throw new Error("the model has no experts: every block is dense");
  byId("layer").replaceChildren(...routes.layers.map((one) => new Option(one.layer + 1)));
  byId("routes").hidden = false;
  drawRoutes();
});

onSubmit("search", async (form) => {
  const body = { collection: form.get("collection") };
  if (form.get("text")) body.text = form.get("text");
  else body.image = needPicture();
  const found = await call("POST", "/retrieve", body);
  show(byId("search-answers"), found.hits.map((one) => ({ text: one.id, score: one.score })));
});

onSubmit("add", async (form) => {
  const name = encodeURIComponent(form.get("collection"));
  const image = needPicture();
  await call("PUT", `/collections/${name}`, {});
  const id = `${byId("file").files[0] ? byId("file").files[0].name : "pasted"}-${Date.now()}`;
  const found = await call("POST", `/collections/${name}/items`, { items: [{ id, image }] });
  if (found.errors.length) throw new Error(found.errors[0].error.message);
  say(`added as ${id}`);
  await loadCollections();
});

async function loadCollections() {
  const { collections } = await call("GET", "/collections");
  const select = byId("search").elements.collection;
  const before = select.value;
  select.replaceChildren(...collections.map(({ name, count }) => {
    const option = new Option(`${name} (${count})`, name);
    option.selected = name === before;
    return option;
  }));
}

async function load() {
  try {
    const { data } = await call("GET", "/v1/models");
    byId("models").textContent = data.map((one) => `${one.id}: ${one.tasks.join(", ")} (${one.state})`).join("; ");
    tasks = new Set(data.flatMap((one) => one.tasks));
    for (const section of document.querySelectorAll("[data-task]")) {
      section.hidden = !section.dataset.task.split(" ").some((task) => tasks.has(task));
    }
    await loadCollections();
    say("");
  } catch (error) {
    byId("models").textContent = "";
    say(error.message, true);
  }
}

byId("layer").addEventListener("change", drawRoutes);
byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
byId("key").addEventListener("change", () => {
  sessionStorage.setItem("vlmoe-key", byId("key").value);
  load();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) choose(file);
});
byId("key").value = sessionStorage.getItem("vlmoe-key") || "";
load();
