// What the page's controls do.

import { answer, models, transcript } from "./api.js";
import { Player } from "./player.js";
import { record, samplesOf } from "./sound.js";
import { srt } from "./subtitles.js";

const find = id => document.getElementById(id);
const player = new Player(find("audio"), find("wave"), find("text"));
const VERBS = { transcribe: "Transcribe", translate: "Translate", ask: "Ask" };
let model = null;
let file = null;
let segments = [];
let recording = null;
let running = null;

const task = () => find("form").elements.task.value;

function tell(error) {
  find("error").textContent = error?.message ?? "";
  find("error").hidden = !error;
}

async function connect() {
  try {
    [model] = (await models(find("key").value)).data;
    find("model").textContent = `Model: ${model.id}`;
    find("language").placeholder = model.language;
    tell(null);
  } catch (error) {
    if (error.status === 401) find("key-row").hidden = false;
    if (error.status !== 401 || find("key").value) tell(error);
  }
  refresh();
}

function refresh() {
  for (const row of document.querySelectorAll("[data-tasks]")) row.hidden = !row.dataset.tasks.includes(task());
  find("run").textContent = VERBS[task()];
  find("run").disabled = !model || !file || !!running || !!recording;
  find("record").disabled = !!running;
  find("cancel").hidden = !running;
}

async function take(chosen) {
  file = chosen;
  tell(null);
  find("result").hidden = true;
  find("name").textContent = file.name;
  find("player").hidden = false;
  player.load(file);
  refresh();
  const samples = await samplesOf(file, 8000);
  if (file === chosen) player.showSamples(samples);
}

async function toggleRecording() {
  const button = find("record");
  try {
    if (recording) {
      const { stop } = recording;
      recording = null;
      await take(await stop());
    } else {
      find("audio").pause();
      recording = await record();
    }
    tell(null);
  } catch (error) {
    recording = null;
    tell(error.name === "NotAllowedError" ? new Error("The browser was not allowed to use the microphone.") : error);
  }
  button.setAttribute("aria-pressed", String(!!recording));
  button.textContent = recording ? "Stop recording" : "Record";
  find("record-note").textContent = recording ? "Recording…" : "";
  refresh();
}

async function run(event) {
  event.preventDefault();
  if (find("run").disabled) return;
  running = new AbortController();
  const start = Date.now();
  const watch = setInterval(() => { find("status").textContent = `${Math.round((Date.now() - start) / 1000)} s`; }, 1000);
  find("status").textContent = "Working…";
  tell(null);
  find("result").hidden = true;
  refresh();
  try {
    const options = { model, key: find("key").value, signal: running.signal };
    await (task() === "ask" ? ask(options) : write(options));
    find("result").hidden = false;
    find("status").textContent = `Done in ${((Date.now() - start) / 1000).toFixed(1)} s`;
  } catch (error) {
    find("status").textContent = error.name === "AbortError" ? "Cancelled" : "";
    if (error.status === 401) find("key-row").hidden = false;
    if (error.name !== "AbortError") tell(error);
  } finally {
    clearInterval(watch);
    running = null;
    refresh();
  }
}

async function write(options) {
  const target = task() === "translate" ? find("target").value.trim() : "";
  const found = await transcript(file, { ...options, target, language: find("language").value.trim() });
  segments = found.segments;
  if (found.words?.length) player.showWords(found.words);
  else player.showText(found.text || "(no words)");
  find("hint").hidden = !found.words?.length;
  find("srt").hidden = !segments.length;
}

async function ask(options) {
  const found = await answer(file, { ...options, instruction: find("instruction").value.trim() });
  player.showText(found.text + (found.cut ? " …" : "") || "(no answer)");
  find("hint").hidden = find("srt").hidden = true;
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([srt(segments)], { type: "application/x-subrip" }));
  link.download = `${file.name.replace(/\.[^.]*$/, "")}.srt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copy() {
  await navigator.clipboard.writeText(find("text").textContent).then(
    () => { find("status").textContent = "Copied"; }, tell);
}

function watchDrops() {
  const zone = find("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    // On the whole page: a file dropped beside the zone would replace the page.
    document.addEventListener(name, event => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length && !running) take(event.dataTransfer.files[0]);
    });
  }
}

find("form").addEventListener("submit", run);
find("form").addEventListener("change", refresh);
find("key").addEventListener("change", connect);
find("file").addEventListener("change", event => event.target.files.length && take(event.target.files[0]));
find("record").addEventListener("click", toggleRecording);
find("cancel").addEventListener("click", () => running?.abort());
find("srt").addEventListener("click", save);
find("copy").addEventListener("click", copy);
if (!navigator.mediaDevices?.getUserMedia) {
  find("record").hidden = true;
  find("record-note").textContent = "Browsers let pages record over https, or from this machine, alone.";
}
watchDrops();
connect();
