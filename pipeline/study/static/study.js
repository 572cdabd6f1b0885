// Without this script, volunteers choose ranks from the lists. With it, the lists follow the order of the videos, and each
// change is saved as a draft.
"use strict";

const form = document.querySelector("form");
const films = form.querySelector(".films");
const announcement = document.getElementById("said");
const pause = document.getElementById("pause");
const prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;

const items = () => [...films.children];
const selectOf = (item) => item.querySelector("select");
const videos = () => [...films.querySelectorAll("video")];

function numberRanks() {
  items().forEach((item, index) => { selectOf(item).value = String(index + 1); });
}

// Moving an element in the document stops its video, except with moveBefore.
function move(item, index) {
  const others = items().filter((other) => other !== item);
  const before = others[Math.max(0, Math.min(index, others.length))] ?? null;
  if (before === item.nextElementSibling || before === item) return false;
  const playing = !item.querySelector("video").paused;
  if (films.moveBefore) films.moveBefore(item, before);
  else films.insertBefore(item, before);
  if (playing) item.querySelector("video").play().catch(() => {});
  numberRanks();
  return true;
}

let saving = Promise.resolve();
function save() {
  const body = new URLSearchParams(new FormData(form));
  saving = saving
    .then(() => fetch(form.dataset.draft, { method: "POST", body, keepalive: true }))
    .then((answer) => { if (!answer.ok) throw new Error(answer.status); })
    .catch(() => { announcement.textContent = "Your ranking could not be saved; check your connection."; });
}

function announce(item) {
  announcement.textContent = `Video ${item.dataset.letter} is now number ${items().indexOf(item) + 1} of ${items().length}.`;
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
  if (move(item, there)) announce(item);
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
    if (items().indexOf(item) !== from) announce(item);
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
    numberRanks();
    announce(item);
    event.target.focus();
  });
}
numberRanks();

pause.hidden = false;
const showPause = () => { pause.textContent = videos().some((video) => !video.paused) ? "Pause all" : "Play all"; };
pause.addEventListener("click", () => {
  const playing = videos().some((video) => !video.paused);
  for (const video of videos()) playing ? video.pause() : video.play().catch(() => {});
});
for (const video of videos()) {
  video.controls = false;  // controls would cover a paused video; the button pauses all
  video.addEventListener("play", showPause);
  video.addEventListener("pause", showPause);
  if (!prefersReducedMotion) video.play().catch(() => {});
}
showPause();
