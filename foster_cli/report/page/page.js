"use strict";
/* Titles are put in as text, never as markup: everything is made with `make`, which sets textContent alone. */
const data = JSON.parse(document.getElementById("data").textContent);
const SHOWN = 60; // positions listed for a search
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function percent(p) {
  if (p >= 0.9995) return p >= 0.99995 ? "100 %" : "99.9 %";
  if (p >= 0.001) return `${(100 * p).toPrecision(p >= 0.1 ? 3 : 2)} %`;
  return "< 0.1 %";
}

/* --- the tip: one box for charts and map ------------------------------------------------------------------ */
const tip = byId("tip");

function showTip(x, y, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width < innerWidth ? x + 14 : Math.max(4, x - 14 - box.width);
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.min(Math.max(4, y - box.height / 2), innerHeight - box.height - 4)}px`;
}

function hideTip() {
  tip.hidden = true;
}

addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

/* --- charts: values under the pointer, or by the arrow keys ---------------------------------------------- */
const figure = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4))));

function chart(box) {
  const { px, x, x_label, series } = data.charts[box.dataset.chart];
  const svg = box.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  let at = -1;

  function show(index) {
    at = index;
    cursor.setAttribute("transform", `translate(${px[at]} 0)`);
    cursor.setAttribute("visibility", "visible");
    const list = make("ul", "legend");
    for (const line of series) {
      const swatch = draw("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" });
      swatch.append(draw("path", { class: `line ${line.role}`, d: "M1,4H23" }));
      const value = line.y[at] === null ? "–" : figure(line.y[at]);
      list.append(make("li", "", swatch, `${line.label} `, make("b", "", value)));
    }
    const frame = svg.getBoundingClientRect();
    const where = frame.left + (px[at] / 400) * frame.width;
    showTip(where, frame.top + frame.height / 2, make("div", "", `${x_label} ${figure(x[at])}`), list);
  }

  function leave() {
    cursor.setAttribute("visibility", "hidden");
    at = -1;
    hideTip();
  }

  box.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const unit = ((event.clientX - frame.left) / frame.width) * 400;
    let best = 0;
    for (let i = 1; i < px.length; i++) if (Math.abs(px[i] - unit) < Math.abs(px[best] - unit)) best = i;
    show(best);
  });
  box.addEventListener("pointerleave", leave);
  box.addEventListener("blur", leave);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(Math.min(px.length - 1, Math.max(0, at < 0 ? 0 : at + step)));
  });
}

document.querySelectorAll(".plot").forEach(chart);

/* --- the map -------------------------------------------------------------------------------------------------- */
const map = byId("map");
const places = [...byId("cloud").getAttribute("d").matchAll(/M(\d+),(\d+)/g)].map((m) => [Number(m[1]), Number(m[2])]);
const placeOf = new Map(data.map.map((item, i) => [item, places[i]]));
const trails = byId("trails");
let current = 0;

function trail(sequence, side) {
  return sequence[side].map((cell) => placeOf.get(cell[0][0]));
}

function drawTrails() {
  const side = byId("map-side") ? Number(byId("map-side").value) : 0;
  trails.replaceChildren();
  const opacity = Math.min(0.45, Math.max(0.1, 2.4 / data.sequences.length));
  data.sequences.forEach((sequence, i) => {
    if (i === current || !sequence[side].length) return;
    trails.append(draw("path", { class: "trail faint", opacity, d: `M${trail(sequence, side).join("L")}` }));
  });
  const points = trail(data.sequences[current], side);
  trails.append(draw("path", { class: "trail", d: `M${points.join("L")}` }));
  points.forEach(([x, y], i) => {
    trails.append(draw("circle", { class: i ? "stop" : "stop first", cx: x, cy: y, r: i ? 8 : 12 }));
  });
}

function title(item) {
  const text = data.titles[item];
  return text.trim() ? make("bdi", "", text) : make("span", "empty", "(no title)");
}

map.addEventListener("pointermove", (event) => {
  const frame = map.getBoundingClientRect();
  const scale = 1000 / frame.width;
  const x = (event.clientX - frame.left) * scale;
  const y = (event.clientY - frame.top) * scale;
  let best = -1;
  let distance = (14 * scale) ** 2;
  places.forEach(([a, b], i) => {
    const d = (a - x) ** 2 + (b - y) ** 2;
    if (d < distance) [best, distance] = [i, d];
  });
  if (best < 0) hideTip();
  else showTip(event.clientX, event.clientY, title(data.map[best]));
});
map.addEventListener("pointerleave", hideTip);

/* --- the sequences -------------------------------------------------------------------------------------------- */
const fold = (text) => text.normalize("NFKC").toLocaleLowerCase();
const searchable = data.ids.map((id, item) => `${fold(data.titles[item])} ${fold(id)}`);
const heads = data.real ? [""] : data.own ? ["Reads", "Predicts"] : ["Holds"];

function row(item, probability, largest) {
  const line = make("li", "", make("span", "title", title(item)));
  line.title = `${data.titles[item]} (${data.ids[item]})`;
  if (data.real) return line;
  const bar = make("span", "bar", make("i"));
  bar.firstChild.style.width = `${(100 * probability) / largest}%`;
  line.append(make("span", "p", percent(probability)), bar);
  return line;
}

/* A list of one side of a position; with `keep`, only the items in it. */
function side(cell, head, role, keep) {
  const [items, probabilities, spread] = cell;
  const list = make("ol", "items");
  items.forEach((item, i) => {
    if (keep && !keep.has(item)) return;
    const line = row(item, probabilities[i], probabilities[0]);
    line.value = i + 1;
    list.append(line);
  });
  if (!list.childElementCount) return null;
  const block = make("div", `side ${role}`);
  if (head) block.append(make("h4", "", head, make("small", "", `spread ${spread < 100 ? spread.toPrecision(3) : Math.round(spread).toLocaleString("en")}`)));
  block.append(list);
  return block;
}

function card(user, position, keep) {
  const [read, goals] = data.sequences[user];
  const blocks = [side(read[position], heads[0], "read", keep), goals.length ? side(goals[position], heads[1], "goal", keep) : null];
  const name = keep ? `Sequence ${user + 1}, position ${position + 1}` : `Position ${position + 1}`;
  return make("article", "card position", make("h3", "", name), make("div", "sides", ...blocks.filter(Boolean)));
}

function showSequence() {
  const [read] = data.sequences[current];
  byId("found").textContent = `Sequence ${current + 1} of ${data.sequences.length}: ${read.length} positions.`;
  byId("positions").className = data.real ? "plain" : "";
  byId("positions").replaceChildren(...read.map((_, t) => card(current, t)));
}

function showSearch(words) {
  const keep = new Set();
  searchable.forEach((text, item) => words.every((word) => text.includes(word)) && keep.add(item));
  const hits = [];
  const best = ([items, probabilities]) => Math.max(-1, ...probabilities.filter((_, i) => keep.has(items[i])));
  data.sequences.forEach(([read, goals], user) =>
    read.forEach((cell, t) => {
      const p = Math.max(best(cell), goals.length ? best(goals[t]) : -1);
      if (p >= 0) hits.push([user, t, p]);
    }),
  );
  hits.sort((a, b) => b[2] - a[2]);
  const some = hits.length > SHOWN ? `; the ${SHOWN} likeliest are shown` : "";
  byId("found").textContent = `${keep.size} items found, at ${hits.length} positions${some}.`;
  byId("positions").className = "";
  byId("positions").replaceChildren(...hits.slice(0, SHOWN).map(([user, t]) => card(user, t, keep)));
}

function refresh() {
  const words = fold(byId("search").value).split(/\s+/).filter(Boolean);
  if (words.length) showSearch(words);
  else showSequence();
}

function choose(number) {
  current = number;
  byId("sequence").value = byId("map-sequence").value = String(number);
  byId("search").value = "";
  drawTrails();
  refresh();
}

for (const id of ["sequence", "map-sequence"]) {
  data.sequences.forEach((_, i) => byId(id).append(new Option(`${i + 1} of ${data.sequences.length}`, String(i))));
  byId(id).addEventListener("change", (event) => choose(Number(event.target.value)));
}
if (byId("map-side")) byId("map-side").addEventListener("change", drawTrails);
let waiting;
byId("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, 120);
});
byId("controls").hidden = byId("map-controls").hidden = false;
choose(0);
