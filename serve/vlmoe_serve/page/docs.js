"use strict";

const byId = (id) => document.getElementById(id);
const element = (name, text, ...children) => {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};

function resolved(schema, all) {
  return schema && schema.$ref ? all[schema.$ref.split("/").pop()] : schema || {};
}

function typeOf(schema, all) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(one, all)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items || {}, all)}`;
  return schema.type || "any";
}

function example(schema, all, depth = 0) {
  const whole = resolved(schema, all);
  if (whole.examples) return whole.examples[0];
  if (whole.default !== undefined && whole.default !== null) return whole.default;
  if (whole.anyOf) return example(whole.anyOf[0], all, depth);
  if (whole.type === "array") return depth > 4 ? [] : [example(whole.items, all, depth + 1)];
  if (whole.properties) {
    const required = new Set(whole.required || []);
    const names = Object.keys(whole.properties).filter((name) => required.has(name) || whole.properties[name].examples);
    return Object.fromEntries(names.map((name) => [name, example(whole.properties[name], all, depth + 1)]));
  }
  return { string: "...", integer: 1, number: 0.5, boolean: true, object: {} }[whole.type] ?? null;
}

function fields(schema, all) {
  const whole = resolved(schema, all);
  const required = new Set(whole.required || []);
  const rows = Object.entries(whole.properties || {}).map(([name, one]) => {
    const marks = required.has(name) ? "required" : one.default != null ? `default ${JSON.stringify(one.default)}` : "";
    return element("tr", "", element("td", "", element("code", name)), element("td", typeOf(one, all)),
      element("td", marks), element("td", one.description || ""));
  });
  return element("table", "", ...rows);
}

function curl(method, path, body) {
  const data = body === undefined ? "" : ` -H 'content-type: application/json' -d '${JSON.stringify(body)}'`;
  return `curl ${method === "GET" ? "" : `-X ${method} `}${location.origin}${path}${data}`;
}

function route(path, method, one, all) {
  const title = element("summary", "", element("code", `${method.toUpperCase()} ${path}`), ` ${one.summary || ""}`);
  const parts = [title, element("p", one.description || "")];
  for (const parameter of one.parameters || []) {
    parts.push(element("p", `${parameter.in} ${parameter.name}: ${typeOf(parameter.schema || {}, all)}. ${parameter.description || ""}`));
  }
  const content = one.requestBody && one.requestBody.content["application/json"];
  const schemas = content ? content.schema.anyOf || [content.schema] : [];
  for (const schema of schemas) parts.push(element("h3", typeOf(schema, all)), fields(schema, all));
  const body = schemas.length ? example(schemas[0], all) : undefined;
  parts.push(element("pre", curl(method.toUpperCase(), path, body)));
  const answer = one.responses["200"] && one.responses["200"].content && one.responses["200"].content["application/json"];
  const answers = answer && answer.schema ? answer.schema.anyOf || [answer.schema] : [];
  for (const schema of answers) parts.push(element("h3", `200: ${typeOf(schema, all)}`), fields(schema, all));
  const failures = Object.entries(one.responses).filter(([status]) => status >= "400");
  parts.push(element("p", failures.map(([status, { description }]) => `${status} ${description}`).join(" ")));
  return element("details", "", ...parts);
}

async function load() {
  const key = sessionStorage.getItem("vlmoe-key");
  const answer = await fetch("/openapi.json", { headers: key ? { "x-api-key": key } : {} });
  const document_ = await answer.json();
  if (!answer.ok) throw new Error(document_.error.message);
  const all = document_.components.schemas;
  byId("about").textContent = document_.info.description;
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, one] of Object.entries(methods)) byId("routes").append(route(path, method, one, all));
  }
}

load().catch((error) => { byId("status").textContent = error.message; byId("status").className = "bad"; });
