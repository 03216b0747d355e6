"use strict";
// Texts and names only ever become text nodes. What is shown stands in the address after #, so that it can be linked.
const at = id => document.getElementById(id), form = at("form"), results = at("results"), player = at("player"), video = at("video");
const FILTERS = ["top", "threshold", "path", "min_duration", "max_duration", "after", "before"];
let indexes = [], shown = "", run = 0, playing = null, cameFrom = null;

const read = () => new URLSearchParams(location.hash.slice(1));
const round = seconds => Math.round(seconds * 100) / 100;

function minutes(seconds) {
  const whole = Math.floor(seconds), two = number => String(number).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

async function ask(place, tries = 0) {
  const answer = await fetch(place).catch(() => { throw new Error("The server does not answer."); });
  const data = await answer.json().catch(() => ({error: `The server answered ${answer.status}.`}));
  if (answer.ok) return data;
  if (tries && [429, 503].includes(answer.status)) {
    await new Promise(done => setTimeout(done, 1000 * (Number(answer.headers.get("retry-after")) || 1)));
    return ask(place, tries - 1);
  }
  throw new Error(data.error);
}

// -- what is asked ---------------------------------------------------------------------------------------------------

function write(said) {
  for (const [name, value] of [...said]) if (!value) said.delete(name);
  const hash = "#" + said;
  if (location.hash === hash) update();
  else location.hash = hash;
}

function query(said) {
  const words = new URLSearchParams();
  for (const name of ["q", ...FILTERS]) if (said.get(name)) words.set(name, said.get(name));
  return words;
}

form.addEventListener("submit", event => { event.preventDefault(); write(new URLSearchParams(new FormData(form))); });
at("models").addEventListener("change", () => { if (at("q").value.trim()) write(new URLSearchParams(new FormData(form))); });
at("clear").addEventListener("click", () => {
  for (const name of FILTERS) form.elements[name].value = "";
  if (at("q").value.trim()) write(new URLSearchParams(new FormData(form)));
});

function fill(said) {
  for (const name of ["q", ...FILTERS]) form.elements[name].value = said.get(name) ?? "";
  const used = FILTERS.filter(name => said.get(name)).length;
  at("filters").querySelector("summary").textContent = used ? `Filters (${used})` : "Filters";
  for (const radio of at("models").querySelectorAll("input")) radio.checked = radio.value === (said.get("m") ?? "");
  document.title = said.get("q") ? `${said.get("q")} – find a moment` : "Find a moment";
}

// -- what is found ---------------------------------------------------------------------------------------------------

async function update() {
  const said = read();
  fill(said);
  const wanted = indexes.filter(index => !said.get("m") || index.name === said.get("m"));
  const key = JSON.stringify([String(query(said)), wanted.map(index => index.name)]);
  if (key !== shown) await search(said, wanted, key);
  follow(said);
}

async function search(said, wanted, key) {
  const mine = ++run;
  shown = key;
  if (!said.get("q")) {
    results.replaceChildren();
    at("status").textContent = "";
    return;
  }
  at("status").textContent = "Searching …";
  results.setAttribute("aria-busy", "true");
  const words = query(said);
  const answers = await Promise.all(wanted.map(async index => {
    words.set("index", index.name);
    return ask(`/api/search?${words}`, 3).catch(error => ({index: index.name, error: error.message, hits: []}));
  }));
  if (mine !== run) return;  // another search has begun since
  results.removeAttribute("aria-busy");
  results.className = answers.length > 1 ? "sides two" : "sides";
  results.replaceChildren(...answers.map(answer => side(answer, answers.length > 1)));
  if (answers.some(answer => answer.error)) shown = "";
  const count = answers.reduce((sum, answer) => sum + answer.hits.length, 0);
  const took = Math.max(...answers.map(answer => answer.seconds ?? 0));
  at("status").textContent = `${count} ${count === 1 ? "moment" : "moments"}, ${Math.round(took * 1000)} ms`;
}

function side(answer, named) {
  const section = document.createElement("section"), list = document.createElement("ol");
  section.setAttribute("aria-label", answer.index);
  if (named) {
    const head = document.createElement("h2"), index = indexes.find(each => each.name === answer.index);
    head.textContent = `${answer.index}: ${index.model}`;
    section.append(head);
  }
  if (answer.error || !answer.hits.length) {
    const line = document.createElement("p");
    line.className = answer.error ? "trouble" : "soft";
    line.textContent = answer.error || "Nothing fits these words and filters.";
    section.append(line);
  }
  list.append(...answer.hits.map((hit, place) => card(hit, place)));
  section.append(list);
  return section;
}

function card(hit, place) {
  const item = at("card").content.firstElementChild.cloneNode(true), film = item.querySelector(".film");
  const around = Math.max(1, (hit.end - hit.start) / 2);
  const from = Math.max(0, hit.start - around), to = Math.min(hit.duration, hit.end + around);
  const times = `${minutes(hit.start)} – ${minutes(hit.end)} of ${minutes(hit.duration)}`;
  item.querySelector(".name").textContent = `${place + 1}. ${hit.name}`;
  item.querySelector(".name").title = [hit.name, ...hit.also].join("\n");
  item.querySelector(".score").textContent = hit.score.toFixed(3);
  item.querySelector(".times").textContent = times;
  film.setAttribute("aria-label", `Play ${hit.name}, ${times}, score ${hit.score.toFixed(3)}`);
  film.addEventListener("click", () => { cameFrom = film; open(hit); });
  mark(item.querySelector(".span"), hit.start - from, hit.end - from, to - from);
  mark(item.querySelector(".track i"), hit.start, hit.end, hit.duration);
  picture(film, `/api/videos/${hit.video}/strip?start=${round(from)}&end=${round(to)}`, 5);
  return item;
}

function mark(element, start, end, whole) {
  element.style.left = `${100 * start / whole}%`;
  element.style.width = `${100 * Math.min(1, (end - start) / whole)}%`;
}

// A strip is loaded once it is near the screen; of one that cannot be had the server's reason is shown.
const near = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); entry.target.load(); }
}, {rootMargin: "300px"});

function picture(film, place, tries) {
  film.load = async () => {
    try {
      const answer = await fetch(place);
      if (answer.ok) {
        const image = film.querySelector("img"), source = URL.createObjectURL(await answer.blob());
        image.onload = () => URL.revokeObjectURL(source);
        image.src = source;
        return;
      }
      if (answer.status === 503 && tries--) return setTimeout(film.load, 1000);
      throw new Error((await answer.json()).error);
    } catch (error) {
      film.classList.add("none");
      film.append(error.message);
    }
  };
  near.observe(film);
}

// -- playing ---------------------------------------------------------------------------------------------------------

function link(hit) {
  const said = read();
  said.set("v", hit.video);
  said.set("t", `${round(hit.start)}-${round(hit.end)}`);
  return "#" + said;
}

const open = hit => { location.hash = link(hit); };

async function follow(said) {
  const id = said.get("v"), [start, end] = (said.get("t") ?? "").split("-").map(Number);
  if (!id) {
    if (player.open) player.close();
    return;
  }
  const key = `${id} ${start} ${end}`;
  if (player.open && playing === key) return;
  playing = key;
  at("trouble").hidden = true;
  at("playing").textContent = "";
  at("here").href = location.hash;
  if (!player.open) player.showModal();
  try {
    const info = await ask(`/api/videos/${encodeURIComponent(id)}`);
    if (playing !== key) return;
    at("playing").textContent = at("playing").title = info.name;
    play(`/api/videos/${encodeURIComponent(id)}/file`, start || 0, end);
  } catch (error) {
    trouble(error.message);
  }
}

function play(place, start, end) {
  const moment = end > start ? `#t=${start},${end}` : `#t=${start}`;
  at("times").textContent = end > start ? `${minutes(start)} – ${minutes(end)}` : `from ${minutes(start)}`;
  video.onloadedmetadata = () => {
    mark(at("place"), start, end > start ? end : start, video.duration || 1);
    if (Math.abs(video.currentTime - start) > 0.5) video.currentTime = start;
  };
  video.onerror = () => trouble("This browser cannot play this video: its format or its file.");
  at("again").onclick = () => { video.src = place + moment; video.play().catch(() => {}); };
  at("again").onclick();
}

function trouble(words) {
  at("trouble").textContent = words;
  at("trouble").hidden = false;
}

player.addEventListener("close", () => {
  playing = null;
  video.onerror = null;
  video.removeAttribute("src");
  video.load();
  const said = read();
  said.delete("v");
  said.delete("t");
  write(said);
  cameFrom?.focus();
});
at("close").addEventListener("click", () => player.close());
player.addEventListener("click", event => { if (event.target === player) player.close(); });

// -- keys ------------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", event => {
  if (player.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input:not([type=radio]), select, textarea");
  if (event.key === "/" && !inField) {
    event.preventDefault();
    at("q").select();
  } else if (event.key === "Escape" && event.target.matches(".film")) at("q").focus();
  else if (event.key.startsWith("Arrow") && (!inField || (event.target === at("q") && event.key === "ArrowDown"))) move(event);
});

function move(event) {
  const films = [...results.querySelectorAll(".film")];
  if (!films.length || event.target.matches("[type=radio]")) return;
  const here = document.activeElement.closest(".film");
  event.preventDefault();
  const next = here ? neighbour(films, here, event.key) : films[0];
  if (next) next.focus();
  else if (event.key === "ArrowUp") at("q").focus();
}

// The nearest film in a direction, as the eye sees it: whatever the number of columns.
function neighbour(films, here, key) {
  const middle = film => { const r = film.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; };
  const [x, y] = middle(here), along = key === "ArrowLeft" || key === "ArrowRight" ? 0 : 1;
  const sign = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
  const far = film => {
    const [dx, dy] = [middle(film)[0] - x, middle(film)[1] - y], [ahead, aside] = along ? [dy, dx] : [dx, dy];
    return sign * ahead > 1 ? sign * ahead + 3 * Math.abs(aside) : Infinity;
  };
  const best = films.reduce((a, b) => far(b) < far(a) ? b : a);
  return far(best) < Infinity ? best : null;
}

// -- the start -------------------------------------------------------------------------------------------------------

(async () => {
  try {
    const about = await ask("/api/indexes", 3);
    indexes = about.indexes;
    at("q").maxLength = about.longest_query;
    form.elements.top.max = about.most_moments;
    const said = index => `${index.videos} videos, ${index.windows} windows of ${index.window} s, ${index.model}`;
    at("about").textContent = indexes.length === 1 ? said(indexes[0]) : indexes.map(index => `${index.name}: ${said(index)}`).join(" · ");
    if (indexes.length > 1) {
      at("models").hidden = false;
      for (const [value, name] of [["", "side by side"], ...indexes.map(index => [index.name, index.name])]) {
        const label = document.createElement("label"), radio = document.createElement("input");
        Object.assign(radio, {type: "radio", name: "m", value});
        label.append(radio, ` ${name}`);
        at("models").append(label);
      }
    }
    window.addEventListener("hashchange", update);
    await update();
  } catch (error) {
    at("status").textContent = error.message;
  }
})();
