"use strict";

const byId = (id) => document.getElementById(id);
let picture = null;

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
    const tasks = new Set(data.flatMap((one) => one.tasks));
    for (const section of document.querySelectorAll("[data-task]")) section.hidden = !tasks.has(section.dataset.task);
    await loadCollections();
    say("");
  } catch (error) {
    byId("models").textContent = "";
    say(error.message, true);
  }
}

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
