// Without this script the lists of ranks are the form. With it they follow the order of the films, and are kept as a draft.
"use strict";

const form = document.querySelector("form");
const films = form.querySelector(".films");
const said = document.getElementById("said");
const pause = document.getElementById("pause");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

const items = () => [...films.children];
const selectOf = (item) => item.querySelector("select");
const videos = () => [...films.querySelectorAll("video")];

function numbered() {
  items().forEach((item, index) => { selectOf(item).value = String(index + 1); });
}

// Moving an element in the document stops its film, unless the browser can move it as it is.
function move(item, index) {
  const others = items().filter((other) => other !== item);
  const before = others[Math.max(0, Math.min(index, others.length))] ?? null;
  if (before === item.nextElementSibling || before === item) return false;
  const playing = !item.querySelector("video").paused;
  if (films.moveBefore) films.moveBefore(item, before);
  else films.insertBefore(item, before);
  if (playing) item.querySelector("video").play().catch(() => {});
  numbered();
  return true;
}

let saving = Promise.resolve();
function save() {
  const body = new URLSearchParams(new FormData(form));
  saving = saving
    .then(() => fetch(form.dataset.draft, { method: "POST", body, keepalive: true }))
    .then((answer) => { if (!answer.ok) throw new Error(answer.status); })
    .catch(() => { said.textContent = "Your order could not be kept; check your connection."; });
}

function tell(item) {
  said.textContent = `Film ${item.dataset.letter} is now number ${items().indexOf(item) + 1} of ${items().length}.`;
  save();
}

function keyed(event) {
  const item = event.currentTarget.closest("li");
  const here = items().indexOf(item);
  const there = {
    ArrowUp: here - 1, ArrowLeft: here - 1, ArrowDown: here + 1, ArrowRight: here + 1,
    Home: 0, End: items().length - 1,
  }[event.key];
  if (there === undefined) return;
  event.preventDefault();
  if (there < 0 || there >= items().length) return;
  if (move(item, there)) tell(item);
  event.currentTarget.focus();
}

function dragged(event) {
  if (event.button !== 0) return;
  const handle = event.currentTarget;
  const item = handle.closest("li");
  const from = items().indexOf(item);
  const over = (point) => {
    const target = document.elementsFromPoint(point.clientX, point.clientY).find((e) => e.parentElement === films);
    if (target && target !== item) move(item, items().indexOf(target));
  };
  const end = () => {
    removeEventListener("pointermove", over);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
    item.classList.remove("held");
    if (items().indexOf(item) !== from) tell(item);
  };
  event.preventDefault();
  handle.focus();
  item.classList.add("held");
  addEventListener("pointermove", over);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
}

for (const item of items()) {
  const handle = item.querySelector(".handle");
  handle.hidden = false;
  handle.addEventListener("keydown", keyed);
  handle.addEventListener("pointerdown", dragged);
  selectOf(item).addEventListener("change", (event) => {
    const rank = Number(event.target.value);
    if (rank) move(item, rank - 1);
    numbered();
    tell(item);
    event.target.focus();
  });
}
numbered();

pause.hidden = false;
const showPause = () => { pause.textContent = videos().some((video) => !video.paused) ? "Pause all" : "Play all"; };
pause.addEventListener("click", () => {
  const playing = videos().some((video) => !video.paused);
  for (const video of videos()) playing ? video.pause() : video.play().catch(() => {});
});
for (const video of videos()) {
  video.controls = false;  // they cover a film that stands still; the button pauses all
  video.addEventListener("play", showPause);
  video.addEventListener("pause", showPause);
  if (!still) video.play().catch(() => {});
}
showPause();
