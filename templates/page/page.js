// Brings an open page up to date by what the server sends; without it the page loads itself anew each ten seconds.
"use strict";
const GOOD = ["ready"], BAD = ["failed", "ejected"], MOST = 50;
const live = document.getElementById("live");
let loading = false, again = false;
const waiting = [];
live.textContent = "connecting; as of";

function patch({ cells = {}, lines = {} }) {
  for (const [id, text] of Object.entries(cells)) {
    const element = document.getElementById(id);
    if (!element) continue;
    if (element.tagName === "PROGRESS") { element.value = Number(text); continue; }
    if (element.textContent !== text) element.textContent = text;
    if (id.endsWith(".state")) {
      element.className = `state ${GOOD.includes(text) ? "good" : BAD.includes(text) ? "bad" : "asked"}`;
    } else if (id.endsWith(".slots")) {
      const meter = document.getElementById(id.replace(/slots$/, "meter"));
      if (meter) meter.value = Number(text.replaceAll(",", ""));
    }
  }
  for (const [id, points] of Object.entries(lines)) document.getElementById(id)?.setAttribute("points", points);
}

// Where the keyboard is: a section and what of it, so that it stays there in another main.
function focused(main) {
  const section = document.activeElement.closest("main section");
  if (!section) return null;
  const place = [...section.querySelectorAll("summary, [tabindex]")].indexOf(document.activeElement);
  return main.querySelector(`section[aria-labelledby="${CSS.escape(section.getAttribute("aria-labelledby"))}"]`)
    ?.querySelectorAll("summary, [tabindex]")[place];
}

// Services, instances or operations came or went: the server's page has them. What comes meanwhile waits.
async function anew() {
  again = loading;
  if (loading) return;
  loading = true;
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main"), kept = focused(fresh);
    const closed = new Map([...document.querySelectorAll("main section details")].map(
      (details) => [details.closest("section").getAttribute("aria-labelledby"), details.open]));
    for (const details of fresh.querySelectorAll("section details")) {
      const open = closed.get(details.closest("section").getAttribute("aria-labelledby"));
      if (open !== undefined) details.open = open;
    }
    document.getElementById("main").replaceWith(document.adoptNode(fresh));
    kept?.focus({ preventScroll: true });
  } catch {
    setTimeout(anew, 2000);
  } finally {
    loading = false;
    for (const act of waiting.splice(0)) act();
    if (again) anew();
  }
}

function soon(act) {
  if (loading) waiting.push(act); else act();
}

function news({ number, time, level, words }) {
  const list = document.getElementById("news"), item = document.createElement("li");
  if (list.querySelector(`[data-number="${Number(number)}"]`)) return;
  item.dataset.number = number;
  const when = document.createElement("time"), what = document.createElement("bdi");
  item.className = level;
  when.textContent = time;
  what.textContent = words;
  item.append(when, " ", what);
  list.querySelector(".none")?.remove();
  list.prepend(item);
  while (list.children.length > MOST) list.lastChild.remove();
}

const stream = new EventSource(`/stream?since=${encodeURIComponent(document.body.dataset.view)}`);
stream.addEventListener("open", () => { live.textContent = "live,"; });
stream.addEventListener("error", () => { live.textContent = "not connected; as of"; });
stream.addEventListener("patch", (event) => soon(() => patch(JSON.parse(event.data))));
stream.addEventListener("structure", anew);
stream.addEventListener("news", (event) => soon(() => news(JSON.parse(event.data))));
