// Sortable tables, and turntables that follow one slider.
"use strict";

function sortBy(table, index, isAscending) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[index].dataset.value;
  const rows = [...body.rows];
  const isNumeric = rows.every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // empty cells last in both orders
    const order = isNumeric ? Number(x) - Number(y) : x.localeCompare(y);
    return isAscending ? order : -order;
  });
  body.append(...rows);
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[index].setAttribute("aria-sort", isAscending ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const bestFirst = head.querySelector(".arrow").textContent !== "↑";
      sortBy(table, index, before === null ? bestFirst : before !== "ascending");
    });
  });
}

// Seeking needs the duration, which is known once the metadata are loaded.
const seek = (video, degrees) => { video.currentTime = (degrees / 360) * video.duration + 0.01; };
for (const video of document.querySelectorAll("video[data-degrees]")) {
  const show = () => seek(video, Number(video.dataset.degrees));
  video.readyState ? show() : video.addEventListener("loadedmetadata", show);
}

const videos = [...document.querySelectorAll("video.turntable")];
const slider = document.getElementById("azimuth");
if (slider && videos.length) {
  const play = document.getElementById("play");
  const degrees = document.getElementById("degrees");
  const show = (azimuth) => { degrees.textContent = `${Math.round(azimuth)}°`; };
  const turn = (isOn) => {
    play.textContent = isOn ? "pause" : "play";
    play.setAttribute("aria-pressed", String(isOn));
    for (const video of videos) isOn ? video.play().catch(() => {}) : video.pause();
  };
  play.addEventListener("click", () => turn(videos[0].paused));
  slider.addEventListener("input", () => {
    turn(false);
    show(slider.valueAsNumber);
    for (const video of videos) if (video.duration) seek(video, slider.valueAsNumber);
  });
  videos[0].addEventListener("timeupdate", () => {
    if (videos[0].paused) return;
    slider.value = (videos[0].currentTime / videos[0].duration) * 360;
    show(slider.valueAsNumber);
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) turn(false);
}
